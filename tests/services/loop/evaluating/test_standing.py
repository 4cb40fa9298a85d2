"""How far a batch is, and whom it can still ask."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Checkpoint, Evaluation
from app.services.loop import evaluations
from app.services.loop.evaluating import standing
from app.services.loop.evaluating.standing import Standing
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch, prefers_new


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory, people=2, open_to_everybody=True)


def look(batch: Batch, evaluation: Evaluation) -> tuple[Standing, list[str]]:
    with read_session(batch.engine) as session:
        row = evaluations.get(session, evaluation.id)
        told = standing.look(session, row)
        return told, standing.notes(row, told)


def test_prompts_people_and_what_an_engineer_has_to_know(batch: Batch) -> None:
    def answers(place: int) -> tuple[str, str]:
        return ("Same.", "Same.") if place == 1 else (f"The new {place}.", f"Old {place}.")

    evaluation = batch.asking(6, Wanted(share=100), answers=answers, failed=[2], cut=[3])
    batch.judge(batch.evaluators[0], prefers_new)
    batch.settle(evaluation)
    told, notes = look(batch, evaluation)
    assert (told.prompts, told.same, told.judged, told.waiting, told.unaskable) == (6, 1, 1, 3, 0)
    assert told.left_out_words == ["1 without an answer of both sides"]
    assert {one.can_be_asked for one in told.people} == {3}
    assert any(note.startswith("1 of 6: same answer.") for note in notes)
    assert any("come alone" in note for note in notes) and any("give a side away: 1." in note for note in notes)
    batch.ordinary(1)
    assert not any("come alone" in note for note in look(batch, evaluation)[1])


def test_prompts_that_nobody_is_left_for_are_told(engine: Engine, settings: Settings, factory: Factory) -> None:
    batch = Batch(engine, settings, factory, people=0, open_to_everybody=False)
    with read_session(engine) as session:
        (maker,) = standing.choosing.judges(session, project=batch.project)  # type: ignore[attr-defined]
    evaluation = batch.asking(2, Wanted(share=100))
    from app.models import User

    with read_session(engine) as session:
        person = session.get_one(User, maker)
    assert batch.judge(person, "skip")
    told, notes = look(batch, evaluation)
    assert told.unaskable == 1 and [one.can_be_asked for one in told.people] == [1]
    assert any("1 of 2 prompts that wait are left for nobody" in note for note in notes)


def test_a_split_that_picked_the_best_step_is_told(batch: Batch) -> None:
    evaluation = batch.asking(2)
    assert not any("publish=best" in note for note in look(batch, evaluation)[1])
    with write_session(batch.engine) as session:
        row = session.get_one(Checkpoint, batch.checkpoint.id)
        row.provenance = row.provenance | {"config": {"publish": "best"}}
    assert any("publish=best" in note for note in look(batch, evaluation)[1])
