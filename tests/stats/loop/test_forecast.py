"""Forecasts against exact calculation."""

import math
from itertools import product

import numpy as np
import pytest

from app.stats.loop.decision import Goal, Plan, Stop, decide
from app.stats.loop.forecast import Remaining, decidable, log_wealth, power, prompts_needed, remaining
from app.stats.loop.sequential import Wealth, excludes


def superiority(maximum: int) -> Plan:
    return Plan(Goal.SUPERIORITY, maximum)


def exact_power(prompts: int, rate: float) -> float:
    """P(better within so many prompts), by going through all numbers of wins prompt by prompt."""
    going, reached = {0: 1.0}, 0.0
    for seen in range(1, prompts + 1):
        after: dict[int, float] = {}
        for won, share in going.items():
            for gain, chance in ((1, rate), (0, 1 - rate)):
                after[won + gain] = after.get(won + gain, 0.0) + share * chance
        going = {}
        for won, share in after.items():
            if excludes({1.0: won, 0.0: seen - won}, 0.5):
                reached += share * (won > seen / 2)
            else:
                going[won] = share
    return reached


@pytest.mark.parametrize(("prompts", "rate"), [(60, 0.7), (120, 0.65), (120, 0.5)])
def test_power_is_the_exact_one(prompts: int, rate: float) -> None:
    # Four standard errors of 2,000 simulated futures.
    exact = exact_power(prompts, rate)
    assert power(superiority(prompts), rate) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2000))


def test_the_wealth_of_many_is_the_wealth_of_each() -> None:
    totals = np.array([[won, lost] for won, lost in product((0, 3, 40, 300), (0, 5, 60))])
    each = [Wealth({1.0: won, 0.0: lost}).log(0.45) for won, lost in totals.tolist()]
    assert log_wealth(totals, [1.0, 0.0], 0.45) == pytest.approx(np.array(each), abs=1e-9)


@pytest.mark.parametrize("mean", [0.45, 0.5])
def test_with_ties_few_stakes_stand_for_all(mean: float) -> None:
    values = [0.0, 0.5, 2 / 3, 1.0]
    totals = np.array([[20, 30, 5, 40], [200, 100, 0, 260], [3, 1, 0, 2]])
    each = [Wealth(dict(zip(values, row, strict=True))).log(mean) for row in totals.tolist()]
    assert log_wealth(totals, values, mean) == pytest.approx(np.array(each), abs=0.05)


def test_what_can_be_decided_agrees_with_power() -> None:
    plan = superiority(200)
    rate = decidable(plan)
    assert rate is not None
    assert power(plan, rate, paths=1000) >= 0.8 > power(plan, rate - 0.01, paths=1000)
    lower = decidable(superiority(800))
    assert lower is not None and lower < rate
    assert decidable(superiority(5)) is None


def test_the_prompts_that_are_needed_have_that_power() -> None:
    needed = prompts_needed(superiority(1), 0.65)
    assert needed is not None
    assert 0.77 <= power(superiority(needed), 0.65) <= 0.83
    assert prompts_needed(superiority(1), 0.5) is None
    tied = prompts_needed(superiority(1), 0.65, ties=0.3)
    assert tied is not None and tied < needed  # ties vary less


def test_not_to_be_worse_takes_fewer_than_to_be_better() -> None:
    easier, harder = (prompts_needed(Plan(goal, 1), 0.58) for goal in (Goal.NON_INFERIORITY, Goal.SUPERIORITY))
    assert easier is not None and harder is not None and easier < harder / 1.5


def test_ties_that_leave_no_room_for_the_win_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="ties count half"):
        power(superiority(100), 0.9, ties=0.5)


def test_what_remains_is_the_same_every_time_and_adds_up() -> None:
    outcomes = {1.0: 82, 0.5: 10, 0.0: 58}
    said = remaining(superiority(2000), outcomes, seed=3)
    assert said is not None and said == remaining(superiority(2000), outcomes, seed=3)
    assert said.low is not None and said.median is not None and said.high is not None
    assert 0 < said.low < said.median < said.high <= 1850
    assert said.goal + said.worse + said.maximum == pytest.approx(1)
    assert said.goal > 0.8 > said.worse


def test_further_apart_is_sooner_decided() -> None:
    near, far = (remaining(superiority(3000), {1.0: won, 0.0: 100 - won}) for won in (57, 62))
    assert near is not None and far is not None and near.median is not None and far.median is not None
    assert far.median < near.median


def test_who_will_not_be_done_by_the_maximum_is_told_so() -> None:
    said = remaining(superiority(220), {1.0: 100, 0.0: 100})
    assert said is not None and (said.median, said.high) == (None, None)
    assert said.maximum > 0.9


def test_what_is_decided_needs_no_more() -> None:
    plan = superiority(500)
    assert decide(plan, {1.0: 70, 0.0: 30}).stop is Stop.GOAL
    assert remaining(plan, {1.0: 70, 0.0: 30}) == Remaining(0, 0, 0, 1.0, 0.0, 0.0)
    assert remaining(plan, {1.0: 30, 0.0: 70}) == Remaining(0, 0, 0, 0.0, 1.0, 0.0)
    assert remaining(superiority(20), {1.0: 10, 0.0: 10}) == Remaining(0, 0, 0, 0.0, 0.0, 1.0)


def test_of_nothing_nothing_is_foretold() -> None:
    assert remaining(superiority(500), {}) is None
    assert remaining(superiority(500), {1.0: 0}) is None


def test_means_of_several_votes_are_foretold_too() -> None:
    said = remaining(Plan(Goal.NON_INFERIORITY, 800), {1.0: 30, 2 / 3: 30, 1 / 3: 20, 0.0: 15}, paths=200)
    assert said is not None and said.median is not None and said.goal > 0.8
