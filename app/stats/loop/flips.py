"""How far a list of pairs that contradict the model can be trusted: flips that were planted in the same data say it.

Labels of a known share of pairs are turned around, the models are trained as for the list itself, and the list is made again.
Which of its pairs were planted is known. Wrong labels that were there before count as false alarms, so where there are any the
true precision is higher than the stated one.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.stats.loop.estimate import Estimate
from app.stats.loop.win_rate import wilson

Name = TypeVar("Name", bound=Hashable)
LISTED = 0.05  # of all pairs, at most, are said to contradict the others strongly
MOST_LISTED = 1_000  # somebody looks at each
RELIABLE = 3.0  # times the base rate: below it, looking through the list is little better than looking at any pairs


def strongest(margins: Mapping[Name, float]) -> list[Name]:
    """The pairs that contradict the others most: the lowest margins, the lowest first, and none that isn't below 0.

    margins: of models that weren't trained on the pair. At most a twentieth of the pairs, and at most 1,000.
    """
    most = min(MOST_LISTED, math.ceil(LISTED * len(margins)))
    below = [name for name, margin in margins.items() if margin < 0]
    return sorted(below, key=lambda name: margins[name])[:most]


@dataclass(frozen=True)
class Planting:
    """One run of the whole procedure with its own draw of flips. All three are sets of pairs.

    flipped: whose labels were turned around. listed: which the list then named. pairs: all that could be.
    """

    pairs: frozenset[Hashable]
    flipped: frozenset[Hashable]
    listed: frozenset[Hashable]


@dataclass(frozen=True)
class ListQuality:
    """`precision`: the share of flips among what is listed; `recall`: the share of flips that are listed; `base_rate`: the share of
    flips among all pairs. `reliable`: even the precision's lower end is at least three times the base rate."""

    base_rate: float
    precision: Estimate
    recall: Estimate
    reliable: bool


def list_quality(plantings: Sequence[Planting]) -> ListQuality:
    """Precision and recall over all plantings at one rate. Raises ValueError without one, or where one names pairs that it hasn't."""
    if not plantings:
        raise ValueError("flips must be planted at least once")
    if any(not planting.flipped | planting.listed <= planting.pairs for planting in plantings):
        raise ValueError("what was flipped and listed must be among the pairs")
    base_rate = sum(len(planting.flipped) for planting in plantings) / max(
        1, sum(len(planting.pairs) for planting in plantings)
    )
    precision = _ratio([(planting.listed, planting.flipped) for planting in plantings])
    recall = _ratio([(planting.flipped, planting.listed) for planting in plantings])
    reliable = precision.value is not None and base_rate > 0 and precision.low >= RELIABLE * base_rate
    return ListQuality(base_rate, precision, recall, reliable)


def _ratio(plantings: Sequence[tuple[frozenset[Hashable], frozenset[Hashable]]]) -> Estimate:
    """The share r of tries that hit, over all plantings of (tries, what hits), with an interval for other data of the same kind.

    The same hard pair may be listed in every planting, so pairs are clusters: the variance is that of a ratio of sums over pairs,
    Σ(aᵢ − r·bᵢ)² / (Σbᵢ)² with aᵢ hits in bᵢ tries (Cochran 1977, section 6.3). Where plantings differ by more than their
    tries account for, what they differ by is added. It makes an effective size, at most the number of tries, for Wilson's interval. The
    variance counts one pair more that misses in every planting: few false alarms show poorly how false alarms vary.
    """
    import numpy as np

    pairs = {pair: place for place, pair in enumerate(dict.fromkeys(pair for tries, _ in plantings for pair in tries))}
    if not pairs:
        return Estimate(None, 0.0, 1.0, 0)
    tried, hit = np.zeros((len(plantings), len(pairs) + 1)), np.zeros((len(plantings), len(pairs) + 1))
    for row, (tries, hits) in enumerate(plantings):
        tried[row, [pairs[pair] for pair in tries]] = 1
        hit[row, [pairs[pair] for pair in tries & hits]] = 1
    total, ratio = float(tried.sum()), float(hit.sum() / tried.sum())
    off = hit - ratio * tried
    differ = (
        float((off.sum(axis=1) ** 2).sum()) * len(plantings) / max(1, len(plantings) - 1) if len(plantings) > 1 else 0.0
    )
    tried[:, -1] = 1
    wary = float(hit.sum() / tried.sum())
    by_pair = float(((hit - wary * tried).sum(axis=0) ** 2).sum()) / float(tried.sum()) ** 2
    variance = by_pair + max(0.0, differ - float((off**2).sum())) / total**2
    effective = min(total, wary * (1 - wary) / variance) if wary > 0 else float(len(pairs))
    return wilson(ratio, effective, count=int(total))
