"""Commands of the loop: generation, evaluations, verdicts, lineage, aliases."""
