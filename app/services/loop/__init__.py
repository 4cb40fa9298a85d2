"""Closing the loop: new answers, blind batches against an opponent, verdicts, lineage, aliases."""
