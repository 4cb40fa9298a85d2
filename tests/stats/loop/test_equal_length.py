"""The win rate at equal length, against statsmodels and against what was planted."""

import numpy as np
import pytest
import statsmodels.api as sm

from app.stats.loop.equal_length import Compared, equal_length, fit


def drawn(seed: int, prompts: int, log_odds: float, slope: float, mean: float = 40.0) -> list[Compared]:
    draw = np.random.default_rng(seed)
    longer_by = draw.normal(mean, 60, size=prompts)
    p = 1 / (1 + np.exp(-(log_odds + slope * np.tanh(longer_by / 60))))
    values = draw.random(prompts) < p
    return [Compared(i, float(value), float(d)) for i, (value, d) in enumerate(zip(values, longer_by, strict=True))]


def test_the_fit_is_that_of_statsmodels() -> None:
    draw = np.random.default_rng(1)
    x, y = np.tanh(draw.normal(0.3, 1, size=400)), draw.choice([0.0, 0.5, 1.0], size=400)
    weights = draw.multinomial(400, np.full(400, 1 / 400), size=3).astype(float)
    theta, phi = fit(x, y, weights)
    for row, ours in zip(weights, zip(theta, phi, strict=True), strict=True):
        theirs = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial(), freq_weights=row).fit().params
        assert ours == pytest.approx(theirs, abs=2e-3)  # the slope's weak penalty


def test_answers_that_are_only_longer_are_better_raw_and_not_at_equal_length() -> None:
    rows = drawn(2, 600, log_odds=0.0, slope=1.5)
    result = equal_length(rows)
    assert result is not None
    assert sum(row.value for row in rows) / 600 > 0.58
    assert result.win_rate.low < 0.5 < result.win_rate.high
    assert result.slope.low > 0
    assert result.win_rate.count == 600


def test_without_a_part_of_length_it_is_the_raw_win_rate() -> None:
    rows = drawn(3, 600, log_odds=0.5, slope=0.0)
    result = equal_length(rows)
    assert result is not None and result.win_rate.value is not None
    assert result.win_rate.value == pytest.approx(sum(row.value for row in rows) / 600, abs=0.02)
    assert result.slope.low < 0 < result.slope.high


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = drawn(4, 100, log_odds=0.2, slope=0.3)
    assert equal_length(rows, seed=5) == equal_length(rows, seed=5)
    assert equal_length(rows, seed=5) != equal_length(rows, seed=6)


def test_several_pairs_of_a_prompt_do_not_narrow_it() -> None:
    rows = drawn(5, 100, log_odds=0.2, slope=0.3)
    once, thrice = equal_length(rows), equal_length(rows * 3)
    assert once is not None and thrice is not None
    assert thrice.win_rate.count == 100
    assert thrice.win_rate.high - thrice.win_rate.low == pytest.approx(once.win_rate.high - once.win_rate.low, rel=0.1)


def test_lengths_that_alone_decide_give_finite_figures() -> None:
    rows = [Compared(i, float(i % 2), 50.0 if i % 2 else -50.0) for i in range(40)]
    result = equal_length(rows)
    assert result is not None and result.win_rate.value == pytest.approx(0.5, abs=0.01)
    assert np.isfinite([result.slope.low, result.slope.high]).all()
    always = equal_length([Compared(i, 1.0, float(i)) for i in range(40)])
    assert always is not None and always.win_rate.value is not None and always.win_rate.value > 0.9


def test_too_little_says_nothing() -> None:
    assert equal_length(drawn(6, 19, 0.0, 0.0)) is None
    assert equal_length([Compared(i, float(i % 2), 7.0) for i in range(50)]) is None
    assert equal_length([]) is None


def test_what_is_no_win_rate_or_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        equal_length([Compared(1, 2.0, 3.0)])
    with pytest.raises(ValueError, match="finite"):
        equal_length([Compared(i, 1.0, float("inf")) for i in range(30)])
