"""People behind a win rate: what each would say, what is left without them, who clicks a side, who can't have read.

Figures to look into and to talk about. None of them changes a verdict.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from app.stats.loop.estimate import Estimate, tally
from app.stats.loop.win_rate import Vote, of_votes
from app.stats.shares import Share, share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SURE = 0.01  # of all people together: the chance to name anybody as a side-clicker where nobody is one
FASTEST_READING = 1000 / 60
"""Words a second. Silent readers take in 3 to 5 (Brysbaert 2019, "How many words do we read per minute?"); above 1,000 words a
minute nobody has been seen to understand a text."""


@dataclass(frozen=True)
class Person:
    """`raw`: the mean of their votes. `win_rate`: what they would say of many more, drawn towards everybody's mean as far as few
    votes demand."""

    person: Hashable
    raw: float
    win_rate: Estimate


@dataclass(frozen=True)
class Without:
    """The win rate without one person's votes. `tips`: with them it lies surely on one side of one half, without them it doesn't."""

    person: Hashable
    votes: int
    win_rate: Estimate
    tips: bool


@dataclass(frozen=True)
class Sides:
    """How often somebody chose what was shown on the left. Sides are drawn, so it is half for all who read.

    `p_value`: exact, corrected for the number of people (Holm 1979). `clicks_a_side`: it is below 1 %.
    """

    person: Hashable
    left: Share
    p_value: float
    clicks_a_side: bool


@dataclass(frozen=True)
class Timing:
    """seconds from shown to judged, and how many words both answers had."""

    person: Hashable
    seconds: float
    words: int


@dataclass(frozen=True)
class Speed:
    """`seconds`: the median. `unread`: the share of judgments that came faster than anybody reads."""

    person: Hashable
    judgments: int
    seconds: float
    unread: float


def shrunken(votes: Iterable[Vote]) -> list[Person]:
    """Each person's win rate by a beta-binomial model of people, most votes first.

    Person j's own rate is drawn from Beta(κμ, κ(1 − μ)) and their votes from it, so given μ and κ it is Beta(κμ + won,
    κ(1 − μ) + lost), ties half to both. μ and κ aren't taken at their best guess, which would make intervals too narrow for few people,
    but averaged over (Gelman et al. 2013, section 5.3, with its prior, uniform in μ and in 1/√κ).
    """
    import numpy as np

    values: dict[Hashable, list[float]] = defaultdict(list)
    for vote in votes:
        values[vote.person].append(vote.value)
    tally(value for of_person in values.values() for value in of_person)  # refuses what is no win rate
    if not values:
        return []
    people = sorted(values, key=lambda person: -len(values[person]))
    won = np.array([sum(values[person]) for person in people])
    total = np.array([len(values[person]) for person in people])
    results = []
    for person, points in zip(people, _posteriors(won, total - won), strict=True):
        low, high, center = points
        count = len(values[person])
        results.append(Person(person, sum(values[person]) / count, Estimate(center, low, high, count)))
    return results


def without_each(votes: Sequence[Vote]) -> list[Without]:
    """The win rate without each person, the furthest from everybody's first."""
    everybody = of_votes(votes)
    counts: dict[Hashable, int] = defaultdict(int)
    for vote in votes:
        counts[vote.person] += 1
    results = []
    for person, count in counts.items():
        rest = of_votes(vote for vote in votes if vote.person != person)
        results.append(Without(person, count, rest, _side(rest) != _side(everybody)))
    return sorted(results, key=lambda result: -abs(_value(result.win_rate) - _value(everybody)))


def sides(chosen: Iterable[tuple[Hashable, bool]]) -> list[Sides]:
    """chosen: (person, whether they chose the left answer) for each judgment that chose one. Whoever clicks most comes first."""
    counts: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    for person, is_left in chosen:
        counts[person][0] += is_left
        counts[person][1] += 1
    shares = {person: share(left, total) for person, (left, total) in counts.items()}
    results, corrected = [], 0.0
    for place, (person, left) in enumerate(sorted(shares.items(), key=lambda item: item[1].p_value or 0.0)):
        # Holm's steps; statsmodels' function for them collects the whole process's garbage first.
        corrected = max(corrected, min(1.0, (len(shares) - place) * (left.p_value or 0.0)))
        results.append(Sides(person, left, corrected, corrected < SURE))
    return results


def speed(timings: Iterable[Timing]) -> list[Speed]:
    """How fast each person judged, the fastest reader first."""
    of_person: dict[Hashable, list[Timing]] = defaultdict(list)
    for timing in timings:
        of_person[timing.person].append(timing)
    results = []
    for person, of_one in of_person.items():
        unread = sum(timing.words > FASTEST_READING * timing.seconds for timing in of_one) / len(of_one)
        results.append(Speed(person, len(of_one), median(timing.seconds for timing in of_one), unread))
    return sorted(results, key=lambda result: (-result.unread, result.seconds))


def _value(estimate: Estimate) -> float:
    return 0.5 if estimate.value is None else estimate.value


def _side(estimate: Estimate) -> int:
    """1 surely above one half, −1 surely below, 0 neither."""
    return (estimate.low > 0.5) - (estimate.high < 0.5)


def _posteriors(won: "NDArray[np.float64]", lost: "NDArray[np.float64]") -> list[tuple[float, float, float]]:
    """(people,) 2.5 % and 97.5 % quantiles and mean of each person's rate, over a grid of μ and κ.

    won, lost: (people,) votes, ties half to both.
    """
    import numpy as np
    from scipy.special import betaln

    mu, kappa = np.meshgrid((np.arange(40) + 0.5) / 40, np.geomspace(1, 2000, 24))
    a, b = (mu * kappa).ravel(), ((1 - mu) * kappa).ravel()
    # The prior is ∝ κ^(−3/2) dκ; steps of the grid are equal in log κ, hence κ^(−1/2).
    logs = betaln(a[:, None] + won, b[:, None] + lost).sum(axis=1) - len(won) * betaln(a, b) - 0.5 * np.log(a + b)
    kept = logs > logs.max() - 14
    weights = np.exp(logs[kept] - logs.max())
    a, b, weights = a[kept], b[kept], weights / weights.sum()
    points = (np.arange(500) + 0.5) / 500
    results = []
    for ones, zeros in zip(won, lost, strict=True):
        alpha, beta = a + ones, b + zeros
        log_density = (alpha[:, None] - 1) * np.log(points) + (beta[:, None] - 1) * np.log1p(-points)
        density = weights @ np.exp(log_density - betaln(alpha, beta)[:, None])
        shares = density.cumsum() / density.sum()
        low, high = (float(np.interp(level, shares, points + 0.001)) for level in (0.025, 0.975))
        results.append((low, high, float(weights @ (alpha / (alpha + beta)))))
    return results
