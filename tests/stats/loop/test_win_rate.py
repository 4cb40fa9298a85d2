"""Win rates of one look."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from app.stats.loop.estimate import Estimate, tally
from app.stats.loop.win_rate import Vote, by_tag, of_votes, prompt_values, win_rate


@given(st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wins_and_losses_give_wilsons_interval(counts: tuple[int, int]) -> None:
    won, total = counts
    low, high = proportion_confint(won, total, method="wilson")
    ours = win_rate({1.0: won, 0.0: total - won})
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_ties_narrow_it_as_their_variance_says() -> None:
    half_ties = win_rate({1.0: 50, 0.5: 100, 0.0: 50})
    coins = win_rate({1.0: 200, 0.0: 200})  # half of the variance is twice the prompts
    assert (half_ties.low, half_ties.high) == (pytest.approx(coins.low), pytest.approx(coins.high))
    assert half_ties.count == 200


def test_more_votes_on_a_prompt_are_not_more_prompts() -> None:
    once = [Vote(prompt, "ana", float(prompt % 2)) for prompt in range(40)]
    thrice = [Vote(prompt, person, float(prompt % 2)) for prompt in range(40) for person in ("ana", "ben", "cem")]
    assert of_votes(thrice) == of_votes(once)
    assert of_votes(thrice).count == 40
    assert prompt_values([Vote(1, "ana", 1.0), Vote(1, "ben", 0.5), Vote(2, "ana", 0.0)]) == {1: 0.75, 2: 0.0}


def test_where_nothing_varies_the_interval_still_has_a_width() -> None:
    assert win_rate({0.5: 30}).low < 0.4
    assert win_rate({1.0: 30}) == Estimate(1.0, pytest.approx(0.8865, abs=1e-3), 1.0, 30)


def test_of_nothing_it_is_unknown() -> None:
    assert win_rate({}) == Estimate(None, 0.0, 1.0, 0)
    assert of_votes([]) == Estimate(None, 0.0, 1.0, 0)


def test_thirds_are_one_value_however_they_were_summed() -> None:
    assert tally([1 / 3, (0.1 + 0.2) / 0.9, 2 / 6]) == {0.333333333333: 3}


def test_tags_come_by_size_with_intervals_of_their_own() -> None:
    tags = by_tag([("billing", 1.0), ("tone", 1.0), ("tone", 0.0), ("tone", 0.5)])
    assert list(tags) == ["tone", "billing"]
    assert tags["tone"] == win_rate({1.0: 1, 0.5: 1, 0.0: 1})
    assert by_tag([]) == {}
