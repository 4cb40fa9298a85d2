"""The confidence sequence against another library, against its definition, and at its edges."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from app.stats.loop.estimate import Outcomes, tally
from app.stats.loop.sequential import STRENGTH, Wealth, excludes, interval, trajectory

# confseq 0.0.11, bernoulli_confidence_interval(won, prompts, 0.05, t_opt) with the t_opt that makes its beta mixture ours:
# 17 · (2 log 20 + log(1 + 2 log 20)), for it takes t_opt / (…) − 1 as the strength.
CONFSEQ = [
    (7, 10, 0.1481418663, 0.9875548372),
    (0, 12, 0.0000000000, 0.5547057102),
    (12, 12, 0.4452942898, 1.0000000000),
    (60, 100, 0.4481374739, 0.7409493335),
    (35, 100, 0.2155678560, 0.5007970106),
    (220, 400, 0.4724089568, 0.6262175918),
    (940, 1000, 0.9131483710, 0.9617053461),
    (1050, 2000, 0.4880195008, 0.5618235300),
    (2600, 5000, 0.4957056298, 0.5442396482),
]
OUTCOMES = st.dictionaries(
    st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 1.0]), st.integers(1, 60), min_size=1, max_size=5
)


@pytest.mark.parametrize(("won", "prompts", "low", "high"), CONFSEQ)
def test_wins_and_losses_give_the_interval_of_confseq(won: int, prompts: int, low: float, high: float) -> None:
    ours = interval({1.0: won, 0.0: prompts - won})
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert (ours.value, ours.count) == (won / prompts, prompts)


def wealth_by_definition(outcomes: Outcomes, mean: float) -> float:
    """The mean over stakes b of the product of what each prompt pays, by numeric integration."""

    def product(b: float) -> float:
        logs = sum(n * math.log(b * x / mean + (1 - b) * (1 - x) / (1 - mean)) for x, n in outcomes.items())
        return math.exp(logs) * float(beta.pdf(b, STRENGTH * mean, STRENGTH * (1 - mean)))

    return quad(product, 1e-12, 1 - 1e-12, limit=500, epsabs=0, epsrel=1e-9)[0]


@pytest.mark.parametrize("mean", [0.2, 0.45, 0.5, 0.7])
@pytest.mark.parametrize(
    "outcomes",
    [{0.5: 9}, {1.0: 20, 0.5: 12, 0.0: 11}, {1.0: 8, 2 / 3: 10, 1 / 3: 4, 0.0: 9}, {0.1: 5, 0.9: 7, 0.35: 3, 1.0: 2}],
)
def test_the_wealth_is_that_of_a_bettor_who_spreads_the_first_coin(outcomes: Outcomes, mean: float) -> None:
    assert Wealth(outcomes).log(mean) == pytest.approx(math.log(wealth_by_definition(outcomes, mean)), abs=1e-7)


def test_every_bet_is_fair_so_the_wealth_is_a_martingale() -> None:
    # Whatever came so far: a next prompt of that mean leaves the wealth as it is, on average.
    mean = 0.6
    so_far = {1.0: 5, 0.5: 3, 0.0: 4}
    for law in ({1.0: 0.6, 0.0: 0.4}, {1.0: 0.4, 0.5: 0.4, 0.0: 0.2}, {0.6: 1.0}, {0.9: 0.5, 0.3: 0.5}):
        after = sum(
            share * math.exp(Wealth({**so_far, value: so_far.get(value, 0) + 1}).log(mean))
            for value, share in law.items()
        )
        assert after == pytest.approx(math.exp(Wealth(so_far).log(mean)), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(OUTCOMES)
def test_the_interval_holds_the_mean_mirrors_and_ends_where_means_are_excluded(outcomes: dict[float, int]) -> None:
    ours, mirrored = interval(outcomes), interval(tally_of({1 - value: count for value, count in outcomes.items()}))
    assert ours.value is not None
    assert ours.low <= ours.value <= ours.high
    assert ours.low == pytest.approx(1 - mirrored.high, abs=1e-9)
    step = 1e-6
    for end, outwards in ((ours.low, -step), (ours.high, step)):
        if 0.001 < end < 0.999:
            assert excludes(outcomes, end + outwards)
            assert not excludes(outcomes, end - outwards)


def tally_of(outcomes: dict[float, int]) -> Outcomes:
    return {round(value, 12): count for value, count in outcomes.items()}


def test_the_order_of_prompts_does_not_matter() -> None:
    values = [1.0] * 30 + [0.5] * 8 + [1 / 3] * 5 + [0.0] * 20
    shuffled = random.Random(1).sample(values, len(values))
    assert interval(tally(values)) == interval(tally(shuffled))


def test_thousands_of_different_values_keep_a_sensible_width() -> None:
    # Products of many small probabilities reach the smallest numbers that there are, which must not add up to anything.
    values = np.random.default_rng(0).random(5000)
    ours = interval(tally(values))
    fixed = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert 1.3 * fixed < ours.high - ours.low < 2.5 * fixed
    assert ours.low < values.mean() < ours.high


def test_ties_narrow_the_interval() -> None:
    assert interval({0.5: 50, 1.0: 25, 0.0: 25}).low > interval({1.0: 50, 0.0: 50}).low


def test_nothing_and_little_say_nothing() -> None:
    nothing = interval({})
    assert (nothing.value, nothing.low, nothing.high, nothing.count) == (None, 0.0, 1.0, 0)
    assert not excludes({}, 0.5)
    assert (interval({1.0: 1}).low, interval({1.0: 1}).high) == (0.0, 1.0)
    assert not excludes({1.0: 5}, 0.5)


def test_confidence_widens() -> None:
    assert interval({1.0: 60, 0.0: 40}, confidence=0.99).low < interval({1.0: 60, 0.0: 40}, confidence=0.9).low


@pytest.mark.parametrize("outcomes", [{1.5: 1}, {-0.1: 2}, {0.5: -1}, {math.nan: 1}])
def test_what_is_no_win_rate_is_refused(outcomes: dict[float, int]) -> None:
    with pytest.raises(ValueError, match="win rates lie between 0 and 1"):
        interval(outcomes)


def test_a_trajectory_ends_with_the_interval_of_all() -> None:
    values = [1.0, 0.5, 0.0, 1.0, 1.0] * 50
    steps = trajectory(values, looks=20)
    assert len(steps) == 20
    assert steps[-1] == interval(tally(values))
    assert [step.count for step in steps] == sorted({step.count for step in steps})
    assert trajectory([]) == []
    assert [step.count for step in trajectory([1.0, 0.0], looks=100)] == [1, 2]
