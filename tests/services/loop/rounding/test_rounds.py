"""A round's states, by compare-and-set."""

import pytest
from sqlalchemy import Engine

from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.models import Round, RoundState, RoundStep, User
from app.services.loop.rounding import rounds
from app.services.loop.rounding.plan import RoundPlan
from tests.factory import Factory


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def row(engine: Engine, factory: Factory, engineer: User) -> Round:
    project = factory.project()
    with write_session(engine) as session:
        plan = RoundPlan.of({"base_model": "tiny"})
        return rounds.start(session, project=session.merge(project), plan=plan, by=session.merge(engineer))[0]


def test_a_step_is_taken_once(engine: Engine, row: Round) -> None:
    with write_session(engine) as session:
        assert rounds.step_on(session, row, source=RoundStep.JUDGMENTS, to=RoundStep.SNAPSHOT)
        assert not rounds.step_on(session, row, source=RoundStep.JUDGMENTS, to=RoundStep.SNAPSHOT)
    with pytest.raises(ValueError, match="back"), write_session(engine) as session:
        rounds.step_on(session, row, source=RoundStep.SNAPSHOT, to=RoundStep.ANSWERS)


def test_a_step_that_was_left_meanwhile_fails_nothing(engine: Engine, row: Round) -> None:
    with read_session(engine) as session:
        stale = rounds.get(session, row.id)
    with write_session(engine) as session:
        assert rounds.step_on(session, row, source=RoundStep.JUDGMENTS, to=RoundStep.SNAPSHOT)
    with write_session(engine) as session:
        assert not rounds.fail(session, stale, "it was judged by then")
        assert rounds.get(session, row.id).state is RoundState.RUNNING


def test_what_has_ended_stays_so(engine: Engine, row: Round, engineer: User) -> None:
    with write_session(engine) as session:
        assert rounds.finish(session, rounds.get(session, row.id))
    with write_session(engine) as session:
        now = rounds.get(session, row.id)
        assert not rounds.fail(session, now, "too late")
        with pytest.raises(Conflict, match="finished"):
            rounds.stop(session, row=now, by=session.merge(engineer))
        with pytest.raises(Conflict, match="Only a failed round"):
            rounds.retry(session, row=now, by=session.merge(engineer))
        assert (now.state, now.problem) == (RoundState.FINISHED, "")


def test_numbers_go_on_and_a_new_one_may_start_when_the_last_has_ended(
    engine: Engine, row: Round, engineer: User
) -> None:
    with write_session(engine) as session:
        now = rounds.stop(session, row=rounds.get(session, row.id), by=session.merge(engineer))
        assert rounds.current(session, project=now.project) is None
        plan = RoundPlan.of({"base_model": "tiny", "judgments": 3})
        second, is_new = rounds.start(session, project=now.project, plan=plan, by=session.merge(engineer))
    assert (second.number, is_new) == (2, True)
    with read_session(engine) as session:
        assert [one.number for one in rounds.listing(session, project=second.project).items] == [2, 1]
        assert rounds.running(session) == [second.id]
        assert rounds.numbered(session, project=second.project, number=1).id == row.id
        for missing in (0, 9, 2**40):
            with pytest.raises(NotFound):
                rounds.numbered(session, project=second.project, number=missing)
            with pytest.raises(NotFound):
                rounds.get(session, missing + 10**6)
