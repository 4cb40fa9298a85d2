"""The win rate at equal length: what the new answers would win if they were no longer and no shorter than the old ones.

An association, not an effect: answers that differ in length differ in other things too.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.stats.loop.estimate import Estimate, tally

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 1000
FEWEST = 20  # prompts: below it a slope is a guess
_RIDGE = 0.05  # weak: keeps the slope finite where lengths alone divide wins from losses


@dataclass(frozen=True)
class Compared:
    """One prompt's outcome: its win rate in [0, 1] and how much longer the new answer is, in words or tokens.

    A prompt with several pairs of answers comes once for each; `prompt` keeps them together.
    """

    prompt: Hashable
    value: float
    longer_by: float


@dataclass(frozen=True)
class EqualLength:
    """`win_rate` at a difference of 0. `slope`: how much the log-odds of winning grow from equal length to far longer (tanh 0 to 1)."""

    win_rate: Estimate
    slope: Estimate


def equal_length(rows: Sequence[Compared], *, seed: int = 0, draws: int = DRAWS) -> EqualLength | None:
    """Logistic regression P(new wins) = σ(θ + φ · tanh(d / sd(d))), and σ(θ), with bootstrap intervals over prompts.

    This is the length term of length-controlled AlpacaEval (Dubois et al. 2024), for one pair of models. d isn't centred: 0 means equal
    length. Intervals are the 2.5 % and 97.5 % quantiles over draws of whole prompts (Efron & Tibshirani 1993, section 13.3),
    with the same seed the same. None below 20 prompts, or where all differences are equal. Raises ValueError for a value that is
    no win rate, or a length that is no number.
    """
    import numpy as np

    tally(row.value for row in rows)  # refuses what is no win rate
    groups = {prompt: index for index, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    longer_by = np.array([row.longer_by for row in rows], dtype=float)
    if not np.isfinite(longer_by).all():
        raise ValueError("lengths must be finite numbers")
    if len(groups) < FEWEST or longer_by.std() == 0:
        return None
    x = np.tanh(longer_by / longer_by.std())
    y = np.array([row.value for row in rows], dtype=float)
    of_row = np.array([groups[row.prompt] for row in rows])
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    theta, phi = fit(x, y, np.concatenate([np.ones((1, len(rows))), drawn[:, of_row]]))
    rates = 1 / (1 + np.exp(-theta))
    return EqualLength(_with_interval(rates, len(groups)), _with_interval(phi, len(groups)))


def fit(
    x: "NDArray[np.float64]", y: "NDArray[np.float64]", weights: "NDArray[np.float64]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """(draws,) intercepts and slopes of a logistic regression of y in [0, 1] on x, for many weightings of the rows at once.

    x, y: (rows,). weights: (draws, rows). Newton's method on the log-likelihood less 0.05/2 · slope².
    """
    import numpy as np

    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(50):
        p = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * x)))
        residual, curvature = weights * (y - p), weights * p * (1 - p)
        g0, g1 = residual.sum(axis=1), residual @ x - _RIDGE * phi
        h00, h01, h11 = curvature.sum(axis=1) + 1e-9, curvature @ x, curvature @ x**2 + _RIDGE
        determinant = h00 * h11 - h01**2
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        theta, phi = np.clip(theta + np.clip(step0, -2, 2), -12, 12), phi + np.clip(step1, -2, 2)
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-9:
            break
    return theta, phi


def _with_interval(values: "NDArray[np.float64]", count: int) -> Estimate:
    """The first value, with the quantiles of all others."""
    import numpy as np

    low, high = np.quantile(values[1:], (0.025, 0.975))
    return Estimate(float(values[0]), float(low), float(high), count)
