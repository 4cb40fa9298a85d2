"""What an evaluation came to, by its plan."""

import pytest

from app.stats.loop.decision import Decision, Goal, Plan, Stop, Word, decide, first_stop
from app.stats.loop.estimate import tally
from app.stats.loop.sequential import interval

SUPERIORITY = Plan(Goal.SUPERIORITY, maximum=500)
NON_INFERIORITY = Plan(Goal.NON_INFERIORITY, maximum=500)


def decided(plan: Plan, won: int, lost: int, tied: int = 0) -> Decision:
    return decide(plan, {1.0: won, 0.5: tied, 0.0: lost})


def test_better_and_worse_stop_an_evaluation_for_superiority() -> None:
    better, worse = decided(SUPERIORITY, 70, 30), decided(SUPERIORITY, 30, 70)
    assert (better.word, better.stop, better.goal_reached) == (Word.BETTER, Stop.GOAL, True)
    assert (worse.word, worse.stop, worse.goal_reached) == (Word.WORSE, Stop.WORSE, False)
    assert better.win_rate == interval({1.0: 70, 0.0: 30})


def test_it_goes_on_while_the_interval_holds_one_half() -> None:
    going = decided(SUPERIORITY, 55, 45)
    assert (going.word, going.stop) == (Word.UNDECIDED, None)
    assert going.win_rate.low < 0.5 < going.win_rate.high


def test_the_maximum_stops_it_undecided() -> None:
    ended = decide(Plan(Goal.SUPERIORITY, maximum=100), {1.0: 55, 0.0: 45})
    assert (ended.word, ended.stop, ended.goal_reached) == (Word.UNDECIDED, Stop.MAXIMUM, False)


def test_non_inferiority_is_reached_below_one_half_of_wins() -> None:
    not_worse = decided(NON_INFERIORITY, 245, 245, tied=400)
    assert (not_worse.word, not_worse.stop, not_worse.below_half) == (Word.NOT_WORSE, Stop.GOAL, False)
    assert 0.45 < not_worse.win_rate.low < 0.5


def test_more_than_was_asked_for_is_said() -> None:
    assert decided(NON_INFERIORITY, 70, 30).word is Word.BETTER
    at_maximum = decided(SUPERIORITY, 245, 245, tied=400)
    assert (at_maximum.word, at_maximum.stop, at_maximum.goal_reached) == (Word.NOT_WORSE, Stop.MAXIMUM, False)


def test_surely_below_half_but_within_the_margin_is_what_the_plan_asked() -> None:
    outcomes = (1850, 2150, 6000)
    plan = Plan(Goal.NON_INFERIORITY, maximum=20_000)
    slightly = decided(plan, outcomes[0], outcomes[1], outcomes[2])
    assert slightly.win_rate.high < 0.5 and slightly.win_rate.low > 0.45
    assert (slightly.word, slightly.stop, slightly.below_half) == (Word.NOT_WORSE, Stop.GOAL, True)
    strict = decided(Plan(Goal.SUPERIORITY, maximum=20_000), outcomes[0], outcomes[1], outcomes[2])
    assert (strict.word, strict.stop, strict.below_half) == (Word.WORSE, Stop.WORSE, True)


def test_identical_answers_count_as_ties() -> None:
    alone, with_ties = decided(SUPERIORITY, 68, 32), decided(SUPERIORITY, 68, 32, tied=60)
    assert alone.stop is with_ties.stop is Stop.GOAL  # a tie speaks neither for nor against "above one half"
    assert with_ties.win_rate.value == pytest.approx((68 + 30) / 160)


def test_nothing_is_undecided() -> None:
    nothing = decide(SUPERIORITY, {})
    assert (nothing.word, nothing.stop, nothing.win_rate.value) == (Word.UNDECIDED, None, None)


def test_the_first_stop_is_that_of_looking_after_each_prompt() -> None:
    values = ([1.0] * 7 + [0.0] * 3) * 30
    prompts, decision = first_stop(SUPERIORITY, values)
    assert decision.stop is Stop.GOAL
    assert decide(SUPERIORITY, tally(values[: prompts - 1])).stop is None
    assert decide(SUPERIORITY, tally(values[:prompts])) == decision
    assert first_stop(SUPERIORITY, [1.0, 0.0] * 20)[0] == 40
    assert first_stop(Plan(Goal.SUPERIORITY, maximum=30), [1.0, 0.0] * 20)[0] == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maximum": 0}, "at least one prompt"),
        ({"margin": 0.0}, "between 0 and 0.5"),
        ({"margin": 0.5}, "between 0 and 0.5"),
        ({"confidence": 1.0}, "below 1"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**{"goal": Goal.NON_INFERIORITY, "maximum": 100, **changes})  # type: ignore[arg-type]
