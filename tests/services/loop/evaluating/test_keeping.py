"""Prompts that are kept for evaluation: read from a file, stored in a split of their own."""

import io

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Project, Prompt, Slot, Split
from app.services.collecting import listing, projects, recount
from app.services.collecting.imports import load
from app.services.datasets import snapshots
from app.services.loop.evaluating import keeping
from tests.factory import Factory
from tests.services.loop.batch import Batch


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def test_a_file_holds_texts_messages_or_objects() -> None:
    data = b'"One?"\n\nTwo?\n[{"role": "user", "content": "Three?"}]\n{"prompt": "Four?", "id": 1}\n{not json}\n'
    assert keeping.read(data) == ["One?", "Two?", [{"role": "user", "content": "Three?"}], "Four?", "{not json}"]
    with pytest.raises(Invalid):
        keeping.read(b"\xff\xfe")


def test_new_prompts_are_kept_and_those_of_the_project_are_not(batch: Batch) -> None:
    batch.factory.comparison(batch.project, prompt="How do I export the quarterly report as a table?")
    given = [
        "How do I reset it?",
        "how do I export the quarterly report as a table?",
        "Where is the manual of the pump?",
    ]
    first = keeping.keep(batch.engine, project_id=batch.project.id, given=given, by_id=batch.engineer.id)
    assert (first.kept, first.new, first.others) == (2, 2, 1)
    assert "1 can't be" in first.sentence
    again = keeping.keep(batch.engine, project_id=batch.project.id, given=given[:1], by_id=batch.engineer.id)
    assert (again.kept, again.new, again.others) == (1, 0, 0)
    with read_session(batch.engine) as session:
        assert len(session.scalars(select(Prompt).where(Prompt.split == Split.KEPT)).all()) == 2


def test_nothing_to_keep_is_refused(batch: Batch) -> None:
    with pytest.raises(Invalid):
        keeping.keep(batch.engine, project_id=batch.project.id, given=[], by_id=batch.engineer.id)
    with pytest.raises(Invalid, match="Prompt 2"):
        keeping.keep(batch.engine, project_id=batch.project.id, given=["One?", 2], by_id=batch.engineer.id)


def test_pairs_of_kept_prompts_are_stored_and_neither_asked_nor_trained_on(batch: Batch) -> None:
    keeping.keep(batch.engine, project_id=batch.project.id, given=["Where is north on it?"], by_id=batch.engineer.id)
    pair = batch.factory.comparison(batch.project, prompt="Where is north on it?")
    line = b'{"prompt": "Where is north on it?", "chosen": "Up there.", "rejected": "Down there."}\n'
    row = load.load(
        batch.engine,
        project_id=batch.project.id,
        user_id=batch.engineer.id,
        stream=io.BytesIO(line),
        filename="pairs.jsonl",
        settings=batch.factory.settings,
    )
    assert (row.added, row.rejected) == (1, 0)
    assert batch.judge(batch.evaluators[0]) is None
    with write_session(batch.engine) as session:
        projects.update(session, project=session.merge(batch.project), by=batch.engineer, judgments_per_comparison=2)
    with read_session(batch.engine) as session:
        assert session.scalars(select(Slot).where(Slot.comparison_id == pair.id)).all() == []
        told = snapshots.preview(session, project=session.get_one(Project, batch.project.id))
        assert (told.counts.pairs, told.counts.left_out["kept"], told.counts.left_out.get("not_judged", 0)) == (4, 2, 0)
        assert recount.check(session) == []
        assert listing.comparisons(session, project=batch.project).items[-1].wanted == 0
