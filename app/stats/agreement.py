"""How far people who judged the same thing agree."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

Vote = tuple[Hashable, Hashable, str]


@dataclass(frozen=True)
class Agreement:
    """`units` were judged by two people or more; `pairs` counts pairs of people on the same unit, `same` the share
    of them that agree, `alpha` is Krippendorff's for nominal data (1 perfect, 0 as by chance). None where undefined."""

    units: int
    pairs: int
    same: float | None
    alpha: float | None
    by_rater: dict[Hashable, tuple[int, int]]


def agreement(votes: Iterable[Vote]) -> Agreement:
    """votes: (unit, rater, value), at most one for each unit and rater.

    `by_rater`: (pairs with another person in which they agree, all of theirs).
    """
    import numpy as np  # here, not above: it takes a moment, and few processes measure agreement

    units: dict[Hashable, list[tuple[Hashable, str]]] = defaultdict(list)
    for unit, rater, value in votes:
        units[unit].append((rater, value))
    shared = [unit_votes for unit_votes in units.values() if len(unit_votes) > 1]
    values = sorted({value for unit_votes in shared for _, value in unit_votes})
    counts = np.zeros((len(shared), len(values)), dtype=int)
    by_rater: Counter[Hashable] = Counter()
    pairs_of: Counter[Hashable] = Counter()
    for row, unit_votes in enumerate(shared):
        tally = Counter(value for _, value in unit_votes)
        for rater, value in unit_votes:
            by_rater[rater] += tally[value] - 1
            pairs_of[rater] += len(unit_votes) - 1
        counts[row] = [tally[value] for value in values]
    pairs = sum(pairs_of.values()) // 2
    same = sum(by_rater.values()) / 2 / pairs if pairs else None
    return Agreement(
        len(shared), pairs, same, _alpha(counts), {rater: (by_rater[rater], pairs_of[rater]) for rater in pairs_of}
    )


def _alpha(counts: "numpy.ndarray") -> float | None:
    """counts: (units, values). Undefined where nothing, or only one value, was ever chosen."""
    if counts.size == 0 or (counts.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff

    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
