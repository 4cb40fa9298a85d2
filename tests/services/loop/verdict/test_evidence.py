"""What is read of an evaluation: votes as they count, and the order in which prompts came to count."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import read_session
from app.models import Choice
from app.services.loop import evaluations, verdicts
from app.services.loop.verdict import evidence, figures
from app.services.loop.verdict.evidence import Pair, in_order, vote_of
from app.stats.loop.estimate import tally
from tests.services.loop.evaluated import Evaluated

BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def pair(place: int, value: float | None = 1.0, *, same: bool = False, left_out: str = "", after: int = 0) -> Pair:
    ended = None if same or value is None else BEGAN + timedelta(minutes=after or place)
    return Pair(place, place, 0.5 if same else value, same, left_out, frozenset(), 0, (), ended, True)


@pytest.mark.parametrize(
    ("choice", "new_is_first", "both_bad", "expected"),
    [
        (Choice.FIRST, True, "tie", 1.0),
        (Choice.FIRST, False, "tie", 0.0),
        (Choice.SECOND, False, "tie", 1.0),
        (Choice.TIE, True, "tie", 0.5),
        (Choice.BOTH_BAD, True, "tie", 0.5),
        (Choice.BOTH_BAD, True, "leave_out", None),
        (Choice.SKIP, True, "tie", None),
    ],
)
def test_a_choice_is_a_vote_for_the_new_answer_or_against_it(
    choice: Choice, new_is_first: bool, both_bad: str, expected: float | None
) -> None:
    assert vote_of(choice, new_is_first=new_is_first, both_bad=both_bad) == expected


def test_votes_follow_the_answers_and_not_the_places_of_a_pair(evaluated: Evaluated) -> None:
    row = evaluated.evaluation("wwwllltb=x")
    with read_session(evaluated.engine) as session:
        given = evidence.read(session, verdicts.get(session, row.id))
    assert [ballot.value for ballot in given.ballots] == [1, 1, 1, 0, 0, 0, 0.5, 0.5]
    assert [one.value for one in given.pairs] == [1, 1, 1, 0, 0, 0, 0.5, 0.5, 0.5, None]
    assert evidence.left_out(given.pairs) == {"failed": 1}
    assert (given.basis.judgments, given.basis.counted) == (8, 9)
    assert all(ballot.seconds and ballot.seconds >= 15 and ballot.words > 20 for ballot in given.ballots)


def test_prompts_count_in_the_order_in_which_they_ended() -> None:
    pairs = [pair(0, after=9), pair(1, None), pair(2, 0.0, after=3)]
    assert [one.place for one in in_order(pairs)] == [2, 0]


def test_identical_answers_count_as_if_prompts_were_judged_in_their_order() -> None:
    pairs = [pair(0, same=True), pair(1, None), pair(2, same=True), pair(3, 0.0), pair(4, same=True), pair(5, None)]
    assert [one.place for one in in_order(pairs)] == [0, 3, 2]
    pairs[1], pairs[5] = pair(1, after=7), pair(5, after=8)
    assert [one.place for one in in_order(pairs)] == [0, 3, 2, 1, 4, 5]


def test_what_is_left_out_never_counts() -> None:
    assert in_order([pair(0, left_out="failed"), pair(1, same=True, left_out="judged")]) == []


@pytest.mark.parametrize(
    ("tells", "expected"),
    [
        ({}, set()),
        ({"new": ["names_a_model"], "old": []}, {"names_a_model"}),
        ({"new": {"at_limit": True, "formatting": False}}, {"at_limit"}),
        ({"formatting": True}, {"formatting"}),
    ],
)
def test_tells_are_read_whatever_side_they_are_on(tells: dict[str, object], expected: set[str]) -> None:
    assert evidence.kinds_of_tells(tells) == expected


@pytest.mark.parametrize("letters", ["wlt=wl", "=" * 4, "==wl", "wwll=x=", "w"])
@pytest.mark.parametrize("open_pairs", [0, 3])
def test_what_counts_is_what_the_decision_rests_on(evaluated: Evaluated, letters: str, open_pairs: int) -> None:
    row = evaluated.evaluation(letters, open_pairs=open_pairs)
    with read_session(evaluated.engine) as session:
        given = evidence.read(session, verdicts.get(session, row.id))
        decided_on = evaluations.outcomes(session, given.evaluation)
        plan = evaluations.plan_of(session, given.evaluation)
    assert tally(one.value for one in in_order(given.pairs)) == decided_on
    assert figures.plan_of(given) == plan
