"""Trials of arms: runs of equal size with and without an arm's pairs, and what its judgments bought."""
