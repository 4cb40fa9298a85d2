"""Seeding stores each answer once, and leaves out pairs that the project has."""

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.models import Comparison, Prompt, Response, SourceKind
from app.services.collecting import pairs
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch, answers_of


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def test_answers_are_named_after_their_sources(batch: Batch) -> None:
    evaluation = batch.asking(1)
    (pair,) = batch.pairs(evaluation)
    with read_session(batch.engine) as session:
        new, old = (session.get_one(Response, key) for key in (pair.new_response_id, pair.old_response_id))
    assert (new.source_kind, new.source_name) == (SourceKind.CHECKPOINT, f"checkpoint {batch.checkpoint.id}")
    assert (old.source_kind, old.source_name) == (SourceKind.MODEL, "tiny")


def test_which_answer_stands_first_is_drawn(batch: Batch) -> None:
    evaluation = batch.asking(24)
    pairs_of = batch.pairs(evaluation)
    with read_session(batch.engine) as session:
        rows = session.scalars(select(Comparison).where(Comparison.evaluation_id == evaluation.id))
        first = {row.id: row.first_response_id for row in rows}
    assert len({first[pair.comparison_id or 0] == pair.new_response_id for pair in pairs_of}) == 2


def test_a_pair_that_the_project_has_is_left_out(batch: Batch) -> None:
    (prompt_id,) = batch.prompts(1)
    with write_session(batch.engine) as session:
        prompt = session.get_one(Prompt, prompt_id)
        stored = pairs.NewPair(prompt.messages, answers_of(1))
        prompt.content_hash = stored.hashes.prompt
        session.flush()
        pairs.add_many(session, project=session.merge(batch.project), pairs=[stored])
    batch.prompts(1)
    evaluation = batch.answered(batch.prepared(Wanted()), lambda place: answers_of(1))
    assert sorted(pair.left_out for pair in batch.pairs(evaluation)) == ["", "there"]


def test_an_answer_that_is_stored_keeps_its_row(batch: Batch) -> None:
    first = batch.asking(1)
    with write_session(batch.engine) as session:
        from app.services.loop import evaluations

        evaluations.stop(session, evaluation=evaluations.get(session, first.id), by=None)
    second = batch.answered(batch.prepared(), lambda place: (answers_of(place)[0], "Something else."))
    (one,), (other,) = batch.pairs(first), batch.pairs(second)
    assert one.new_response_id == other.new_response_id and one.old_response_id != other.old_response_id
