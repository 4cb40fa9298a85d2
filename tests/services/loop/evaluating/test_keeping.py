"""Prompts that are kept for evaluation: read from a file, stored in a split of their own."""

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session
from app.errors import Invalid
from app.models import Prompt, Split
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
