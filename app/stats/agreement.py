"""How far people who judged the same thing agree."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass
class Tally:
    """Votes summed up unit by unit, so that no vote is kept: `patterns` counts the units by how often each value was
    given, which for all that people say are few."""

    made: Counter[Hashable] = field(default_factory=Counter)
    patterns: Counter[tuple[tuple[str, int], ...]] = field(default_factory=Counter)
    same: Counter[Hashable] = field(default_factory=Counter)
    pairs: Counter[Hashable] = field(default_factory=Counter)

    def add(self, votes: Sequence[tuple[Hashable, str]]) -> None:
        """Counts one unit's votes: (rater, value), at most one a rater."""
        self.made.update(rater for rater, _ in votes)
        if len(votes) < 2:
            return
        given = Counter(value for _, value in votes)
        self.patterns[tuple(sorted(given.items()))] += 1
        for rater, value in votes:
            self.same[rater] += given[value] - 1
            self.pairs[rater] += len(votes) - 1

    def agreement(self) -> Agreement:
        """`by_rater`: (pairs with another person in which they agree, all of theirs)."""
        pairs = self.pairs.total() // 2
        return Agreement(
            self.patterns.total(),
            pairs,
            self.same.total() / 2 / pairs if pairs else None,
            _alpha(self.patterns),
            {rater: (self.same[rater], self.pairs[rater]) for rater in self.pairs},
        )


def agreement(votes: Iterable[Vote]) -> Agreement:
    """votes: (unit, rater, value), at most one for each unit and rater."""
    units: dict[Hashable, list[tuple[Hashable, str]]] = defaultdict(list)
    for unit, rater, value in votes:
        units[unit].append((rater, value))
    tally = Tally()
    for unit_votes in units.values():
        tally.add(unit_votes)
    return tally.agreement()


def _alpha(patterns: Mapping[tuple[tuple[str, int], ...], int]) -> float | None:
    """Krippendorff's alpha for nominal data from the coincidences of values within units (Krippendorff 2011, part C).

    The `krippendorff` package wants a row a unit, which a million units make too many; a test compares with it.
    Undefined where nothing, or only one value, was ever chosen.
    """
    same, total, of_value = 0.0, 0, Counter[str]()
    for given, units in patterns.items():
        judged = sum(count for _, count in given)
        total += units * judged
        same += units * sum(count * (count - 1) for _, count in given) / (judged - 1)
        for value, count in given:
            of_value[value] += units * count
    if len(of_value) < 2:
        return None
    by_chance = sum(count * (count - 1) for count in of_value.values()) / (total - 1)
    return 1 - (total - same) / (total - by_chance)
