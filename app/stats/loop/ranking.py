"""All checkpoints of a project on one scale, from their comparisons with one another (Bradley & Terry 1952)."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from app.stats.loop.estimate import Estimate, tally

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RIDGE = (
    1 / 16
)  # on a log-odds, a prior standard deviation of 4: finite where a checkpoint won every comparison, else not felt


@dataclass(frozen=True)
class Match:
    """One prompt of one evaluation: `value` is the win rate of `one` against `other`, ties half."""

    one: Hashable
    other: Hashable
    value: float
    prompt: Hashable


@dataclass(frozen=True)
class Standing:
    """`log_odds` of winning against the anchor, and the same as a `win_rate`. The anchor's own are 0 and one half, exactly.

    `from_previous`: the win rate against the checkpoint before it in the given order, None for the first, and where one of
    the two isn't connected to the anchor.
    """

    checkpoint: Hashable
    comparisons: int
    log_odds: Estimate
    win_rate: Estimate
    from_previous: Estimate | None


def ranking(
    matches: Sequence[Match], *, order: Sequence[Hashable], confidence: float = 0.95
) -> dict[Hashable, Standing]:
    """Every checkpoint against the first of `order`, the anchor (say, the base model), in that order: a chart's points.

    P(i wins against j) = σ(θᵢ − θⱼ), θ of the anchor 0, by maximum likelihood with ties as half a win. Intervals come from the
    sandwich covariance with prompts as clusters (White 1982; Liang & Zeger 1986): one prompt serves in several evaluations, and ties
    and averaged votes vary less than coins. A checkpoint that no chain of comparisons connects to the anchor has no value.
    Raises ValueError for a checkpoint that `order` lacks, and for a value that is no win rate.
    """
    import numpy as np

    tally(match.value for match in matches)  # refuses what is no win rate
    if missing := {name for match in matches for name in (match.one, match.other)} - set(order):
        raise ValueError(f"compared, but missing in the order: {', '.join(map(str, missing))}")
    counts = {name: sum(name in (match.one, match.other) for match in matches) for name in order}
    connected = _connected(matches, order)
    index = {name: place for place, name in enumerate(name for name in order[1:] if name in connected)}
    kept = [match for match in matches if match.one in connected and match.one != match.other]
    design = np.zeros((len(kept), len(index)))
    for row, match in enumerate(kept):
        for name, sign in ((match.one, 1.0), (match.other, -1.0)):
            if name in index:
                design[row, index[name]] += sign
    prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(match.prompt for match in kept))}
    clusters = np.array([prompts[match.prompt] for match in kept], dtype=int)
    theta, covariance = _fit(design, np.array([match.value for match in kept]), clusters, len(prompts))
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def against(name: Hashable, opponent: Hashable) -> Estimate:
        if not {name, opponent} <= connected:
            return Estimate(None, -math.inf, math.inf, counts[name])
        contrast = np.zeros(len(index))
        for side, sign in ((name, 1.0), (opponent, -1.0)):
            if side in index:
                contrast[index[side]] += sign
        value, reach = float(contrast @ theta), z * math.sqrt(float(contrast @ covariance @ contrast))
        return Estimate(value, value - reach, value + reach, counts[name])

    standings = {}
    for place, name in enumerate(order):
        log_odds = against(name, order[0])
        step = against(name, order[place - 1]) if place else None
        previous = _as_rate(step) if step is not None and step.value is not None else None
        standings[name] = Standing(name, counts[name], log_odds, _as_rate(log_odds), previous)
    return standings


def _connected(matches: Sequence[Match], order: Sequence[Hashable]) -> set[Hashable]:
    """The anchor, and who was compared with it, or with one of those, and so on."""
    neighbours: dict[Hashable, set[Hashable]] = {name: set() for name in order}
    for match in matches:
        neighbours[match.one].add(match.other)
        neighbours[match.other].add(match.one)
    reached, waiting = set(order[:1]), list(order[:1])
    while waiting:
        new = neighbours[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def _fit(
    design: "NDArray[np.float64]", values: "NDArray[np.float64]", clusters: "NDArray[np.int64]", count: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """(checkpoints,) θ and (checkpoints, checkpoints) covariance. design: (matches, checkpoints). Newton's method."""
    import numpy as np

    size = design.shape[1]
    theta, penalty = np.zeros(size), _RIDGE * np.eye(size)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ theta))
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + penalty
        step = np.linalg.solve(curvature, design.T @ (values - p) - _RIDGE * theta)
        theta = theta + np.clip(step, -2, 2)
        if not size or np.abs(step).max() < 1e-10:
            break
    p = 1 / (1 + np.exp(-design @ theta))
    scores = np.zeros((count, size))
    np.add.at(scores, clusters, design * (values - p)[:, None])
    inverse = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]) + penalty)
    few = count / max(1, count - 1)
    return theta, inverse @ (few * scores.T @ scores) @ inverse


def _as_rate(log_odds: Estimate) -> Estimate:
    if log_odds.value is None:
        return Estimate(None, 0.0, 1.0, log_odds.count)
    value, low, high = (1 / (1 + math.exp(-end)) for end in (log_odds.value, log_odds.low, log_odds.high))
    return Estimate(value, low, high, log_odds.count)
