"""Votes and win rates: late ones, several, and ties that nobody was asked about."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.models.base import now
from app.services.loop import evaluations
from app.services.loop.evaluating import ballots
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch, prefers_new


def test_ties_that_nobody_was_asked_about_count_in_their_turn() -> None:
    pairs = [(1, True, 0.5), (2, False, None), (3, True, 0.5), (4, False, 1.0), (5, True, 0.5), (6, False, None)]
    assert ballots.outcomes(pairs) == {1.0: 1, 0.5: 2}  # as if place 2 had been judged, and place 4 came next
    assert ballots.outcomes([(1, True, 0.5), (2, False, None)]) == {0.5: 1}
    assert ballots.outcomes([(1, False, 0.0), (2, True, 0.5), (3, True, 0.5)]) == {0.0: 1, 0.5: 2}


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def test_votes_say_which_side_was_new_and_what_was_chosen(batch: Batch) -> None:
    evaluation = batch.asking(8, Wanted(share=100))
    seen = [batch.judge(batch.evaluators[0], prefers_new) for _ in range(8)]
    batch.settle(evaluation)
    with read_session(batch.engine) as session:
        votes = evaluations.votes(session, evaluations.get(session, evaluation.id))
    assert [vote.value for vote in votes] == [1.0] * 8
    assert [vote.left_was_new for vote in votes] == [answers[0].startswith("The new") for answers in seen if answers]
    assert all(vote.seconds is not None and vote.counts for vote in votes)


def test_a_vote_beside_those_that_are_wanted_does_not_count(batch: Batch) -> None:
    evaluation = batch.asking(1, Wanted(share=100))
    start = now()
    held = batch.factory.shown(batch.project, batch.evaluators[0], now=start)
    after = start + timedelta(hours=1)
    taken = batch.factory.shown(batch.project, batch.evaluators[1], now=after)
    assert held and taken and held.comparison_id == taken.comparison_id
    batch.factory.record(taken.token, batch.evaluators[1], "tie", now=after)
    batch.factory.record(held.token, batch.evaluators[0], "both_bad", now=after + timedelta(minutes=1))
    batch.settle(evaluation, timedelta(hours=2))
    with read_session(batch.engine) as session:
        (vote,) = evaluations.votes(session, evaluations.get(session, evaluation.id))
    assert vote.user_id == batch.evaluators[1].id and vote.value == 0.5 and not vote.both_bad
