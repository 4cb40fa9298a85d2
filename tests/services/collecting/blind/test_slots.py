"""Slots of evaluations: one holder each, never more votes than wanted, whatever people do at once."""

from collections import Counter

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session
from app.models import Comparison, Judgment, Slot, SlotState
from app.services.collecting import recount
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.collecting.test_slots import at_once
from tests.services.loop.batch import Batch


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory, people=4)


def test_people_at_once_give_as_many_votes_as_are_wanted(batch: Batch) -> None:
    evaluation = batch.asking(6, Wanted(share=100, votes=2))

    def judge_all(number: int) -> None:
        while batch.judge(batch.evaluators[number // 2]):  # each in two tabs
            pass

    at_once(8, judge_all)
    with read_session(batch.engine) as session:
        rows = session.execute(
            select(Judgment.comparison_id, Judgment.user_id)
            .join(Comparison, Comparison.id == Judgment.comparison_id)
            .where(Comparison.evaluation_id == evaluation.id, ~Judgment.superseded)
        ).all()
        assert len(set(rows)) == len(rows) == 12
        assert set(Counter(comparison_id for comparison_id, _ in rows).values()) == {2}
        undone = select(func.count()).select_from(Slot).where(Slot.state != SlotState.DONE)
        assert session.scalar(undone) == 0
        assert recount.check(session) == []


def test_a_lease_that_ran_out_passes_on_in_its_turn(batch: Batch) -> None:
    from datetime import timedelta

    from app.models.base import now

    batch.asking(2, Wanted(share=100))
    start = now()
    first, second = batch.evaluators[:2]
    held = batch.factory.shown(batch.project, first, now=start)
    other = batch.factory.shown(batch.project, second, now=start)
    assert held and other and held.comparison_id != other.comparison_id
    batch.factory.record(other.token, second, now=start)
    assert batch.factory.shown(batch.project, second, now=start + timedelta(minutes=1)) is None
    taken = batch.factory.shown(batch.project, second, now=start + timedelta(hours=1))
    assert taken and taken.comparison_id == held.comparison_id
