"""What is said of people: drawn towards the mean, left out in turn, named for a side, timed."""

import math
import random

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import betaln
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from app.stats.loop.people import Timing, shrunken, sides, speed, without_each
from app.stats.loop.win_rate import Vote, of_votes


def votes_of(person: str, won: int, lost: int, tied: int = 0) -> list[Vote]:
    return [Vote((person, i), person, value) for i, value in enumerate([1.0] * won + [0.0] * lost + [0.5] * tied)]


def test_the_posterior_mean_is_the_models() -> None:
    # The same hierarchical model by adaptive integration over its two hyperparameters.
    counts = [(9, 3), (4, 8), (2.5, 1.5)]
    votes = votes_of("a", 9, 3) + votes_of("b", 4, 8) + votes_of("c", 2, 1, tied=1)

    def weight(mu: float, log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        logs = sum(
            betaln(mu * kappa + w, (1 - mu) * kappa + n) - betaln(mu * kappa, (1 - mu) * kappa) for w, n in counts
        )
        return math.exp(logs - log_kappa / 2 + 20)

    bounds = (0.0, math.log(2000), 1e-6, 1 - 1e-6)
    total = dblquad(weight, *bounds, epsrel=1e-6)[0]
    for person, (won, lost) in zip("abc", counts, strict=True):
        moment = dblquad(
            lambda mu, log_kappa: (
                weight(mu, log_kappa) * (mu * math.exp(log_kappa) + won) / (math.exp(log_kappa) + won + lost)  # noqa: B023
            ),
            *bounds,
            epsrel=1e-6,
        )[0]
        ours = next(result for result in shrunken(votes) if result.person == person)
        assert ours.win_rate.value == pytest.approx(moment / total, abs=0.005)


def test_few_votes_are_drawn_to_the_mean_and_many_stay() -> None:
    votes = votes_of("few", 4, 0) + votes_of("many", 240, 60)
    for person in "abcdef":
        votes += votes_of(person, 50, 50)
    results = {result.person: result for result in shrunken(votes)}
    assert next(iter(results)) == "many"
    assert results["few"].raw == 1.0
    few, many = results["few"].win_rate, results["many"].win_rate
    assert few.value is not None and many.value is not None
    assert 0.5 < few.value < 0.75
    assert many.value == pytest.approx(0.8, abs=0.02)
    assert few.high - few.low > 2 * (many.high - many.low)
    assert few.low < few.value < few.high


def test_shrunken_rates_miss_the_truth_by_less_than_raw_ones() -> None:
    draw = np.random.default_rng(4)
    raw = drawn = 0.0
    for _ in range(20):
        rates = draw.beta(12, 10, size=10)
        votes = [Vote((i, j), i, float(draw.random() < rate)) for i, rate in enumerate(rates) for j in range(12)]
        for result in shrunken(votes):
            assert result.win_rate.value is not None
            raw += (result.raw - rates[int(str(result.person))]) ** 2
            drawn += (result.win_rate.value - rates[int(str(result.person))]) ** 2
    assert drawn < 0.6 * raw


def test_without_the_one_who_carries_it_the_win_rate_falls() -> None:
    votes = votes_of("fan", 60, 0) + votes_of("b", 25, 25) + votes_of("c", 25, 25)
    assert of_votes(votes).low > 0.5
    first, *rest = without_each(votes)
    assert (first.person, first.votes, first.tips) == ("fan", 60, True)
    assert first.win_rate == of_votes(votes_of("b", 25, 25) + votes_of("c", 25, 25))
    assert not any(result.tips for result in rest)


def test_who_alone_holds_it_up_comes_first_also_where_nothing_is_won_without_them() -> None:
    votes = votes_of("won", 10, 0) + votes_of("lost", 0, 5) + votes_of("once", 0, 1)
    assert [result.person for result in without_each(votes)] == ["won", "lost", "once"]


def test_a_prompt_that_others_judged_too_stays_without_one() -> None:
    votes = [Vote(1, "a", 1.0), Vote(1, "b", 0.0), Vote(2, "a", 1.0)]
    by_person = {result.person: result.win_rate for result in without_each(votes)}
    assert (by_person["a"].value, by_person["a"].count) == (0.0, 1)
    assert (by_person["b"].value, by_person["b"].count) == (1.0, 2)


def test_a_person_named_none_is_left_out_as_others_are() -> None:
    results = {result.person: result.win_rate.count for result in without_each([Vote(1, None, 1.0), Vote(2, "b", 0.0)])}
    assert results == {None: 1, "b": 1}


def test_a_side_clicker_is_named_and_nobody_else() -> None:
    draw = random.Random(2)
    clicks = [("left", draw.random() < 0.85) for _ in range(60)]
    clicks += [(person, draw.random() < 0.5) for person in "abcdef" for _ in range(60)]
    first, *rest = sides(clicks)
    assert (first.person, first.clicks_a_side) == ("left", True)
    assert not any(result.clicks_a_side for result in rest)
    left = sum(is_left for person, is_left in clicks if person == "left")
    assert first.p_value == pytest.approx(7 * binomtest(left, 60, 0.5).pvalue)


def test_p_values_are_corrected_as_by_statsmodels() -> None:
    draw = random.Random(3)
    clicks = [(person, draw.random() < 0.5 + person / 30) for person in range(9) for _ in range(50)]
    ours = {result.person: result.p_value for result in sides(clicks)}
    raw = [binomtest(sum(is_left for by, is_left in clicks if by == person), 50, 0.5).pvalue for person in range(9)]
    assert [ours[person] for person in range(9)] == pytest.approx(multipletests(raw, method="holm")[1])


def test_twelve_in_a_row_are_named_alone_but_not_among_fifty() -> None:
    streak = [("a", True)] * 12
    assert sides(streak)[0].clicks_a_side
    others = [(person, bool(i % 2)) for person in range(50) for i in range(12)]
    assert not any(result.clicks_a_side for result in sides(streak + others))


def test_who_cannot_have_read_comes_first() -> None:
    slow = [Timing("reader", 40.0, 200), Timing("reader", 20.0, 100), Timing("reader", 30.0, 90)]
    fast = [Timing("clicker", 1.0, 200), Timing("clicker", 2.0, 100), Timing("clicker", 60.0, 100)]
    first, second = speed(slow + fast)
    assert (first.person, first.judgments, first.seconds) == ("clicker", 3, 2.0)
    assert first.unread == pytest.approx(2 / 3)
    assert (second.person, second.seconds, second.unread) == ("reader", 30.0, 0.0)


def test_of_nobody_nothing_is_said() -> None:
    assert shrunken([]) == [] and without_each([]) == [] and sides([]) == [] and speed([]) == []


def test_a_value_that_is_no_win_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        shrunken([Vote(1, "a", 2.0)])
    with pytest.raises(ValueError, match="between 0 and 1"):
        without_each([Vote(1, "a", math.nan)])
