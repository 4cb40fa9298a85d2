"""The win rate of a batch and of its parts, as one look at it: fixed-look intervals, which never stop anything.

Each holds with 95 % where one looks once. The verdict's own interval (`sequential`) holds at all looks, and is wider.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

from app.stats.loop.estimate import Estimate, Outcomes, checked, mean, size, tally


@dataclass(frozen=True)
class Vote:
    """One judgment: of whom, on which prompt, and how the new answer did (1 won, 0.5 tied, 0 lost)."""

    prompt: Hashable
    person: Hashable
    value: float


def win_rate(outcomes: Outcomes, *, confidence: float = 0.95) -> Estimate:
    """The mean win rate over prompts, ties half, with Wilson's interval.

    Wins and losses alone give Wilson 1927. Ties and means of several votes vary less than a coin does; as for a share in a survey
    with clusters (Korn & Graubard 1998) n becomes the size that a plain sample of the same variance would have,
    n · m(1 − m) / s². Prompts are the clusters: several votes on one are one value, and don't count as more prompts.
    """
    center, total = mean(checked(outcomes)), size(outcomes)
    if center is None:
        return Estimate(None, 0.0, 1.0, 0)
    spread = sum(count * (value - center) ** 2 for value, count in outcomes.items()) / total
    coin = center * (1 - center)
    effective = total * coin / spread if spread > 1e-12 else total
    return wilson(center, effective, count=total, confidence=confidence)


def wilson(center: float, effective: float, *, count: int, confidence: float = 0.95) -> Estimate:
    """Wilson's interval (1927) of a share that an effective number of coins gave, which need not be whole."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    shrunk = (center + z * z / (2 * effective)) / (1 + z * z / effective)
    reach = z * math.sqrt(center * (1 - center) / effective + (z / (2 * effective)) ** 2) / (1 + z * z / effective)
    return Estimate(center, max(0.0, min(center, shrunk - reach)), min(1.0, max(center, shrunk + reach)), count)


def prompt_values(votes: Iterable[Vote]) -> dict[Hashable, float]:
    """Each prompt's mean over its votes."""
    values: dict[Hashable, list[float]] = defaultdict(list)
    for vote in votes:
        values[vote.prompt].append(vote.value)
    return {prompt: sum(of_prompt) / len(of_prompt) for prompt, of_prompt in values.items()}


def of_votes(votes: Iterable[Vote]) -> Estimate:
    return win_rate(tally(prompt_values(votes).values()))


def by_tag(values: Iterable[tuple[Hashable, float]]) -> dict[Hashable, Estimate]:
    """values: (tag, the prompt's win rate), a prompt once for each of its tags. Tags in the order of their size.

    Of twenty tags one lies outside of its interval by chance: a tag is where to look, not what to conclude.
    """
    tags: dict[Hashable, list[float]] = defaultdict(list)
    for tag, value in values:
        tags[tag].append(value)
    return {tag: win_rate(tally(of_tag)) for tag, of_tag in sorted(tags.items(), key=lambda item: -len(item[1]))}
