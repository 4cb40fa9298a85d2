"""The first rows of a file as they would be read."""

import io
import json
from typing import Any

import pytest

from app.db import read_session
from app.errors import Invalid
from app.models import Comparison
from app.services.collecting.imports.preview import Preview, look
from tests.factory import Factory


def shown(factory: Factory, data: bytes, given: dict[str, str] | None = None) -> Preview:
    project = factory.project()
    return look(factory.engine, project_id=project.id, stream=io.BytesIO(data), settings=factory.settings, given=given)


def lines(*rows: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def test_rows_and_columns_are_shown_and_nothing_is_stored(factory: Factory) -> None:
    preview = shown(
        factory, lines({"prompt": "q", "responses": ["a", "b", "c"], "x": 1}, {"prompt": "q", "responses": ["a", ""]})
    )
    assert [(column.name, column.role, column.examples[:1]) for column in preview.columns] == [
        ("prompt", "prompt", ("q",)),
        ("responses", "answers", ('["a","b","c"]',)),
        ("x", "left_out", ("1",)),
    ]
    first, second = preview.rows
    assert next((pair.first, pair.second, pair.said) for pair in first.pairs) == ("a", "b", "waits for a judgment")
    assert (second.reason, preview.refused, preview.is_usable) == ("empty_answer", 1, True)
    with read_session(factory.engine) as session:
        assert not session.query(Comparison).all()


def test_what_a_person_says_of_columns_is_shown_at_once(factory: Factory) -> None:
    data = lines({"frage": "The q", "chosen": "The a", "rejected": "The b"})
    before = shown(factory, data)
    assert not before.is_usable and before.rows[0].reason == "no_common_prompt"
    assert before.columns[0].role == "left_out"
    after = shown(factory, data, {"frage": "prompt"})
    assert after.is_usable and after.columns[0].is_given and after.rows[0].pairs[0].said == "first is better"
    with pytest.raises(Invalid):
        shown(factory, data, {"frage": "nonsense"})


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "no lines"), (b"PK\x03\x04", "ZIP"), (b"\x1f\x8b\x08\x00", "cut off")]
)
def test_a_file_that_is_not_read_says_why(factory: Factory, data: bytes, words: str) -> None:
    preview = shown(factory, data)
    assert words in preview.error and not preview.is_usable
