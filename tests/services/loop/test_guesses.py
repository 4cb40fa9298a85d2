"""Guesses after a batch: on one's own pairs, once, and counted against one's own taste."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.models import EvaluationGuess, EvaluationPair, EvaluationState, User
from app.services.loop import guesses, verdicts
from app.services.loop.guesses import Guessed, Riddle
from app.services.loop.verdict import evidence
from tests.services.loop.evaluated import Evaluated, outcomes


def following(evaluated: Evaluated, user: User) -> Riddle | None:
    with read_session(evaluated.engine) as session:
        return guesses.following(session, project=evaluated.project, user=user)


def guess(evaluated: Evaluated, user: User, pair_id: int, side: Guessed) -> EvaluationGuess:
    with write_session(evaluated.engine) as session:
        return guesses.record(session, project=evaluated.project, user=user, pair_id=pair_id, side=side)


def test_nothing_is_asked_before_the_batch_has_ended_nor_of_others_pairs(evaluated: Evaluated) -> None:
    evaluated.evaluation("wl", people=1)
    judge, other = evaluated.person(0), evaluated.person(1)
    assert following(evaluated, judge) is None
    ended = evaluated.evaluation("twl=", people=1, state=EvaluationState.DECIDED)
    riddle = following(evaluated, judge)
    assert riddle is not None and (riddle.number, riddle.of) == (1, 2), "ties tell nothing"
    assert following(evaluated, other) is None
    with pytest.raises(NotFound):
        guess(evaluated, other, riddle.pair_id, "left")
    with read_session(evaluated.engine) as session:
        pair = session.get_one(EvaluationPair, riddle.pair_id)
        assert pair.evaluation_id == ended.id


def test_a_guess_counts_once_against_what_its_maker_chose(evaluated: Evaluated) -> None:
    row = evaluated.evaluation("wl", people=1, state=EvaluationState.DECIDED)
    judge = evaluated.person(0)
    told = verdicts.current(evaluated.engine, row.id).verdict
    assert told is not None and told.guessed is None
    for _ in range(2):
        riddle = following(evaluated, judge)
        assert riddle is not None
        new_side: Guessed = "left" if riddle.left.startswith("Open Reports") else "right"
        first = guess(evaluated, judge, riddle.pair_id, new_side)
        again = guess(evaluated, judge, riddle.pair_id, "left" if new_side == "right" else "right")
        assert again.id == first.id and again.response_id == first.response_id
    assert following(evaluated, judge) is None
    with read_session(evaluated.engine) as session:
        made = evidence.guesses(session, verdicts.get(session, row.id))
    assert [(one.chose_new, one.right) for one in made] == [(True, True), (False, True)]
    told = verdicts.current(evaluated.engine, row.id).verdict
    assert told is not None and told.guessed is not None and told.guessed.guesses == 2


def test_enough_is_enough(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MOST", 2)
    row = evaluated.evaluation(outcomes(3, 3), people=1, state=EvaluationState.STOPPED)
    judge = evaluated.person(0)
    for _ in range(2):
        riddle = following(evaluated, judge)
        assert riddle is not None and riddle.of == 2
        guess(evaluated, judge, riddle.pair_id, "left")
    assert following(evaluated, judge) is None
    with read_session(evaluated.engine) as session:
        done = {one.pair_id for one in session.query(EvaluationGuess)}
        (left, *_) = [
            one.id for one in session.query(EvaluationPair).filter_by(evaluation_id=row.id) if one.id not in done
        ]
    with pytest.raises(Conflict, match="enough"):
        guess(evaluated, judge, left, "left")


def test_guesses_that_come_at_once_are_no_more_than_enough(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "MOST", 2)
    row = evaluated.evaluation("wwwwww", people=1, state=EvaluationState.STOPPED)
    judge, at_once = evaluated.person(0), threading.Barrier(6)
    with read_session(evaluated.engine) as session:
        pairs = [one.id for one in session.query(EvaluationPair).filter_by(evaluation_id=row.id)]

    def one(pair_id: int) -> bool:
        at_once.wait(timeout=20)
        try:
            return bool(guess(evaluated, judge, pair_id, "left"))
        except Conflict:
            return False

    with ThreadPoolExecutor(len(pairs)) as pool:
        assert sorted(pool.map(one, pairs)) == [False] * 4 + [True] * 2
    with read_session(evaluated.engine) as session:
        assert session.query(EvaluationGuess).count() == 2
