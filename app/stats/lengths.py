"""How long texts are."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """Summary of `count` lengths, in the unit of the input; all zero where there is none."""

    count: int
    mean: float
    median: float
    p90: float
    longest: int


def lengths(values: Sequence[int]) -> Lengths:
    if not len(values):
        return Lengths(0, 0.0, 0.0, 0.0, 0)
    import numpy as np  # here, not above: every process imports the tables, and few describe lengths

    array = np.asarray(values)
    median, p90 = np.percentile(array, (50, 90))
    return Lengths(
        len(array), round(float(array.mean()), 2), round(float(median), 2), round(float(p90), 2), int(array.max())
    )
