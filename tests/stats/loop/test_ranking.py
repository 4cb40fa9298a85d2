"""Bradley–Terry against evalica, and its intervals against statsmodels."""

import math

import evalica
import numpy as np
import pytest
import statsmodels.api as sm

from app.stats.loop.ranking import Match, ranking

ORDER = ["base", "1", "2", "3"]


def drawn(seed: int = 0, prompts: int = 80) -> list[Match]:
    draw = np.random.default_rng(seed)
    strength = {"base": 0.0, "1": 0.3, "2": 0.8, "3": 0.6}
    matches = []
    for one, other in (("1", "base"), ("2", "1"), ("3", "2"), ("3", "base")):
        p = 1 / (1 + math.exp(strength[other] - strength[one]))
        matches += [
            Match(one, other, float(draw.choice([1.0, 0.5, 0.0], p=[p * 0.8, 0.2, (1 - p) * 0.8])), prompt)
            for prompt in range(prompts)
        ]
    return matches


def test_strengths_are_those_of_evalica() -> None:
    matches = drawn()
    winners = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
    scores = evalica.bradley_terry(
        [match.one for match in matches],
        [match.other for match in matches],
        [winners[match.value] for match in matches],
        tolerance=1e-12,
        limit=10_000,
    ).scores
    standings = ranking(matches, order=ORDER)
    for name in ORDER[1:]:
        theirs = math.log(scores[name] / scores["base"])
        assert standings[name].log_odds.value == pytest.approx(theirs, abs=0.01)  # a prior of standard deviation 4


def test_intervals_are_the_sandwich_of_statsmodels() -> None:
    matches = drawn(1)
    design = np.array([[(m.one == name) - (m.other == name) for name in ORDER[1:]] for m in matches], dtype=float)
    fit = sm.GLM([m.value for m in matches], design, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": np.array([m.prompt for m in matches]), "use_correction": False}
    )
    standings = ranking(matches, order=ORDER)
    for name, error in zip(ORDER[1:], fit.bse, strict=True):
        interval = standings[name].log_odds
        assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.02)


def test_a_chart_starts_at_the_anchor() -> None:
    standings = ranking(drawn(2), order=ORDER)
    assert list(standings) == ORDER
    base, second = standings["base"], standings["2"]
    assert (base.win_rate.value, base.win_rate.low, base.win_rate.high) == (0.5, 0.5, 0.5)
    assert (base.from_previous, base.comparisons) == (None, 160)
    assert second.win_rate.low > 0.5 and second.from_previous is not None
    assert second.from_previous.value is not None and 0.5 < second.from_previous.value < 0.75


def test_two_checkpoints_that_met_have_their_plain_win_rate() -> None:
    matches = [Match("new", "old", value, i) for i, value in enumerate([1.0] * 60 + [0.0] * 40)]
    rate = ranking(matches, order=["old", "new"])["new"].win_rate
    assert rate.value == pytest.approx(0.6, abs=0.001)
    assert (rate.low, rate.high) == (pytest.approx(0.50, abs=0.01), pytest.approx(0.69, abs=0.01))


def test_who_won_everything_has_a_finite_strength() -> None:
    matches = [Match("new", "old", 1.0, i) for i in range(30)]
    standing = ranking(matches, order=["old", "new"])["new"]
    assert standing.log_odds.value is not None and 2 < standing.log_odds.value < 8
    assert standing.win_rate.value is not None and standing.win_rate.value < 1


def test_who_is_connected_to_the_anchor_by_nobody_has_none() -> None:
    matches = [*drawn(3), Match("a", "b", 1.0, 1)]
    standings = ranking(matches, order=[*ORDER, "a", "b"])
    assert standings["a"].log_odds.value is None and standings["a"].win_rate.value is None
    assert (standings["a"].win_rate.low, standings["a"].win_rate.high) == (0.0, 1.0)
    assert standings["a"].from_previous is None and standings["b"].from_previous is None
    assert standings["b"].comparisons == 1
    assert standings["3"] == ranking(drawn(3), order=ORDER)["3"]


def test_no_comparison_is_no_error_and_a_missing_checkpoint_is_one() -> None:
    alone = ranking([], order=["base", "1"])
    assert alone["base"].win_rate.value == 0.5 and alone["1"].win_rate.value is None
    assert ranking([], order=[]) == {}
    with pytest.raises(ValueError, match="missing in the order: 9"):
        ranking([Match("9", "base", 1.0, 1)], order=["base"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        ranking([Match("1", "base", -1.0, 1)], order=["base", "1"])
