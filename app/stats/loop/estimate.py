"""A figure with the uncertainty that its data leave."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Outcomes = Mapping[float, int]
"""How often each win rate of a prompt came up: {1.0: won, 0.5: tied, 0.0: lost}, and fractions of several votes."""


@dataclass(frozen=True)
class Estimate:
    """`value` with its interval `low` to `high`, from `count` independent units. Of nothing: the value is None."""

    value: float | None
    low: float
    high: float
    count: int

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def tally(values: Iterable[float]) -> Outcomes:
    """values: one win rate in [0, 1] for each prompt: won 1, tied 0.5, lost 0, or the mean of its votes.

    Means are rounded to twelve digits, so that thirds that were summed in another order are one value.
    """
    return checked(Counter(round(float(value), 12) for value in values))


def checked(outcomes: Outcomes) -> Outcomes:
    """Raises ValueError where a value isn't in [0, 1] or a count is negative."""
    for value, count in outcomes.items():
        if not 0 <= value <= 1 or count < 0:
            raise ValueError(f"{count} prompts with a win rate of {value}: win rates lie between 0 and 1")
    return outcomes


def size(outcomes: Outcomes) -> int:
    return sum(outcomes.values())


def mean(outcomes: Outcomes) -> float | None:
    """None of nothing."""
    total = size(outcomes)
    return sum(value * count for value, count in outcomes.items()) / total if total else None
