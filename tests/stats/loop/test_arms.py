"""What an arm's judgments bought."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from app.stats.loop.arms import worth


def drawn(seed: int, gain: float, seeds: int = 3, prompts: int = 60) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.asarray(
        gain
        + draw.normal(0, 2, size=(seeds, 1))
        + draw.normal(0, 15, size=(1, prompts))
        + draw.normal(0, 20, size=(seeds, prompts))
    )


def test_the_interval_is_made_of_the_mean_squares_of_an_analysis_of_variance() -> None:
    d = drawn(1, 6.0)
    table = pd.DataFrame(
        {"d": d.ravel(), "seed": np.repeat(range(3), 60).astype(str), "prompt": np.tile(range(60), 3).astype(str)}
    )
    squares = anova_lm(ols("d ~ C(seed) + C(prompt)", table).fit())["mean_sq"]
    ms = max(squares["C(seed)"], squares["Residual"])
    total = ms + max(squares["C(prompt)"] - squares["Residual"], 0)
    reach = t.ppf(0.975, 2 * (total / ms) ** 2) * np.sqrt(total / 180)
    ours = worth(d, judgments=100).per_hundred
    assert (ours.value, ours.low, ours.high) == pytest.approx((d.mean(), d.mean() - reach, d.mean() + reach))


def test_it_is_told_per_hundred_judgments() -> None:
    d = drawn(2, 20.0)
    once, half = worth(d, judgments=100), worth(d, judgments=200)
    assert once.per_hundred.value is not None and half.per_hundred.value == pytest.approx(once.per_hundred.value / 2)
    assert half.per_hundred.low == pytest.approx(once.per_hundred.low / 2)
    assert (once.seeds, once.prompts, once.differs) == (3, 60, True)


def test_comparing_more_arms_widens_each_interval() -> None:
    d = drawn(3, 5.0)
    one, four = worth(d, judgments=100).per_hundred, worth(d, judgments=100, arms=4).per_hundred
    assert four.high - four.low > 1.2 * (one.high - one.low)


def test_nothing_planted_nothing_found() -> None:
    assert not worth(drawn(4, 0.0), judgments=100, arms=4).differs
    silent = worth(np.zeros((3, 10)), judgments=50)
    assert (silent.per_hundred.value, silent.per_hundred.low, silent.differs) == (0.0, 0.0, False)


@pytest.mark.parametrize(("shape", "judgments"), [((2, 50), 100), ((3, 1), 100), ((3, 50), 0)])
def test_too_few_seeds_prompts_or_judgments_are_refused(shape: tuple[int, int], judgments: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        worth(np.ones(shape), judgments=judgments)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        worth(np.full((3, 5), np.nan), judgments=10)
