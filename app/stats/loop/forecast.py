"""How many prompts a decision takes: before the start for a supposed win rate, later from what was judged so far.

Both are simulated: futures are drawn, and each is decided by the plan as the real one is. The same seed gives the same answer.
Futures are looked at after each of the next 100 prompts and then at every further 1 %, and many futures cross a bound for a
moment only: a number of prompts comes out up to 5 % high.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from app.stats.loop import decision, sequential
from app.stats.loop.decision import Plan
from app.stats.loop.estimate import Outcomes, checked, size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATHS = 1000
_CHUNK = 250  # paths at once: bounds the memory
_NODES = 64  # stakes that stand for the bettor's density in a forecast
_LIMIT = 20_000  # prompts: nobody judges more


@dataclass(frozen=True)
class Remaining:
    """Prompts until the plan stops, from now on: the median of the futures, and the middle 80 % of them from `low` to `high`.

    None where that many futures are still undecided at the plan's maximum. `goal`, `worse` and `maximum` are the shares of
    futures that end so; they add up to 1.
    """

    median: int | None
    low: int | None
    high: int | None
    goal: float
    worse: float
    maximum: float


def remaining(plan: Plan, outcomes: Outcomes, *, seed: int = 0, paths: int = PATHS) -> Remaining | None:
    """How many more prompts until the plan stops. None of nothing: `power` and `prompts_needed` say what can be said then.

    Each future has win rates of its own, drawn from what the prompts so far leave open (Dirichlet with their counts, and one win and
    one loss beside them, which is the Bayesian bootstrap of Rubin 1981 with a weak prior), so the range holds both chances: what
    the win rate is, and what the next prompts are.
    """
    import numpy as np

    if not size(checked(outcomes)):
        return None
    stop = decision.decide(plan, outcomes).stop
    if stop is not None:
        shares = {name: float(stop is name) for name in decision.Stop}
        return Remaining(
            0, 0, 0, shares[decision.Stop.GOAL], shares[decision.Stop.WORSE], shares[decision.Stop.MAXIMUM]
        )
    random = np.random.default_rng(seed)
    values = sorted({0.0, 1.0, *(value for value, count in outcomes.items() if count)})
    counts = np.array([outcomes.get(value, 0) for value in values])
    shares_of_paths = random.dirichlet(counts + np.isin(values, (0.0, 1.0)) + 1e-9, size=paths)
    ends, goals = _futures(plan, values, counts, shares_of_paths, plan.maximum, random)
    more = ends - size(outcomes)
    low, median, high = (_quantile(more, share) for share in (0.1, 0.5, 0.9))
    decided = np.isfinite(ends)
    goal, worse = float((decided & goals).mean()), float((decided & ~goals).mean())
    return Remaining(median, low, high, goal, worse, 1 - goal - worse)


def power(plan: Plan, win_rate: float, *, ties: float = 0.0, seed: int = 0, paths: int = 2 * PATHS) -> float:
    """The share of evaluations that reach the plan's goal within its maximum, where the true win rate is `win_rate`.

    ties: the share of prompts that end in a tie. Without ties outcomes vary most, so the default promises least.
    Raises ValueError where so many ties and such a win rate can't go together.
    """
    import numpy as np

    ends, goals = _supposed(plan, win_rate, ties, plan.maximum, seed, paths)
    return float((np.isfinite(ends) & goals).mean())


def decidable(plan: Plan, *, share: float = 0.8, ties: float = 0.0, seed: int = 0) -> float | None:
    """The smallest true win rate, in whole points, with which `share` of all evaluations reach the goal within the maximum.

    "60 % or more" of a page. None where even the highest possible win rate doesn't.
    """
    low, high = (
        math.ceil(100 * plan.bar - 1e-9),
        math.floor(100 * (1 - ties / 2) + 1e-9),
    )  # power grows with the win rate
    if power(plan, high / 100, ties=ties, seed=seed, paths=PATHS) < share:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(plan, middle / 100, ties=ties, seed=seed, paths=PATHS) >= share:
            high = middle
        else:
            low = middle
    return high / 100


def prompts_needed(
    plan: Plan, win_rate: float, *, share: float = 0.8, ties: float = 0.0, seed: int = 0, paths: int = 2 * PATHS
) -> int | None:
    """Prompts within which `share` of all evaluations reach the goal at this true win rate, whatever the plan's maximum is.

    "For 55 % about 1,400 prompts" of a page. None above 20,000.
    """
    import numpy as np

    ends, goals = _supposed(plan, win_rate, ties, _LIMIT, seed, paths)
    return _quantile(np.where(goals, ends, np.inf), share)


def _supposed(
    plan: Plan, win_rate: float, ties: float, maximum: int, seed: int, paths: int
) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
    import numpy as np

    shares = np.array([1 - win_rate - ties / 2, ties, win_rate - ties / 2])
    if not 0 <= ties <= 1 or shares.min() < -1e-12:
        raise ValueError(f"a win rate of {win_rate} can't have {ties} ties: ties count half")
    values, kept = [0.0, 0.5, 1.0], np.array([True, ties > 0, True])
    values = [value for value, keep in zip(values, kept, strict=True) if keep]
    shares = np.clip(shares[kept], 0, None)
    random = np.random.default_rng(seed)
    nothing = np.zeros(len(values), dtype=int)
    return _futures(plan, values, nothing, np.tile(shares / shares.sum(), (paths, 1)), maximum, random)


def _futures(
    plan: Plan,
    values: Sequence[float],
    counts: "NDArray[np.int64]",
    shares: "NDArray[np.float64]",
    maximum: int,
    random: "np.random.Generator",
) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
    """(paths,) prompts at which each future is decided, infinite where it isn't within the maximum, and whether for the goal.

    counts: (values,) prompts so far. shares: (paths, values) of each future's further prompts.
    """
    import numpy as np

    start = int(counts.sum())
    looks = _looks(maximum - start)
    ends, goals = [], []
    for first in range(0, len(shares), _CHUNK):
        chunk = shares[first : first + _CHUNK]
        more = random.multinomial(np.diff(looks, prepend=0)[None, :], chunk[:, None, :])
        totals = counts + more.cumsum(axis=1)
        above, below = _crossed(plan, totals, values)
        stops = above | below
        look = stops.argmax(axis=1)
        rows = np.arange(len(chunk))
        ends.append(np.where(stops[rows, look], start + looks[look], np.inf))
        goals.append(above[rows, look])
    return np.concatenate(ends), np.concatenate(goals)


def _crossed(
    plan: Plan, totals: "NDArray[np.int64]", values: Sequence[float]
) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
    """Whether the interval lies above the plan's bar, and below one half, after these prompts. totals: (…, values)."""
    import numpy as np

    threshold = -math.log(1 - plan.confidence)
    means = totals @ np.array(values) / totals.sum(axis=-1)
    at_half = log_wealth(totals, values, 0.5) >= threshold
    at_bar = at_half if plan.bar == 0.5 else log_wealth(totals, values, plan.bar) >= threshold
    above = at_bar & (means > plan.bar)
    return above, at_half & (means < 0.5) & ~above


def log_wealth(totals: "NDArray[np.int64]", values: Sequence[float], mean: float) -> "NDArray[np.float64]":
    """(…,) log W(mean) for many tallies at once. totals: (…, values), prompts that came out with each value.

    A value equal to the mean moves no stake. Where all others are 0 or 1 the wealth is the beta-binomial one; else the density of
    stakes is replaced by so many of them within three standard deviations: a bettor with fewer stakes, and as fair.
    """
    import numpy as np
    from scipy.special import gammaln

    moving = [index for index, value in enumerate(values) if value != mean]
    kept = [values[index] for index in moving]
    totals = totals[..., moving]
    if set(kept) <= {0.0, 1.0}:
        lost = totals[..., kept.index(0.0)] if 0.0 in kept else np.zeros(totals.shape[:-1])
        won = totals[..., kept.index(1.0)] if 1.0 in kept else np.zeros(totals.shape[:-1])
        a, b = sequential.STRENGTH * mean, sequential.STRENGTH * (1 - mean)
        fixed = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        stakes = gammaln(a + won) + gammaln(b + lost) - gammaln(a + b + won + lost)
        return np.asarray(fixed + stakes - won * math.log(mean) - lost * math.log1p(-mean))
    stakes, log_weights = _stakes(mean)
    x = np.array(kept)[:, None]
    logs = totals @ np.log(stakes * x / mean + (1 - stakes) * (1 - x) / (1 - mean)) + log_weights
    largest = logs.max(axis=-1)
    return np.asarray(largest + np.log(np.exp(logs - largest[..., None]).sum(axis=-1)))


@lru_cache(maxsize=16)
def _stakes(mean: float) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """(nodes,) stakes and the logarithms of their shares of the first coin."""
    import numpy as np

    reach = 3 * math.sqrt(mean * (1 - mean) / (sequential.STRENGTH + 1))
    stakes = np.linspace(max(0.005, mean - reach), min(0.995, mean + reach), _NODES)
    density = (sequential.STRENGTH * mean - 1) * np.log(stakes) + (sequential.STRENGTH * (1 - mean) - 1) * np.log1p(
        -stakes
    )
    return stakes, density - np.log(np.exp(density - density.max()).sum()) - density.max()


def _looks(prompts: int) -> "NDArray[np.int64]":
    """The numbers of further prompts after which a future is looked at, the last one included."""
    import numpy as np

    steps = list(range(1, min(prompts, 100) + 1))
    while steps[-1] < prompts:
        steps.append(min(prompts, math.floor(steps[-1] * 1.01)))
    return np.array(steps)


def _quantile(ends: "NDArray[np.float64]", share: float) -> int | None:
    """The smallest number of prompts within which that share has ended."""
    import numpy as np

    value = float(np.sort(ends)[max(0, math.ceil(share * len(ends)) - 1)])
    return None if math.isinf(value) else int(value)
