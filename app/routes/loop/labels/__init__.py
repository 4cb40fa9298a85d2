"""Pages of label checks, and of whose preferences a run learned."""
