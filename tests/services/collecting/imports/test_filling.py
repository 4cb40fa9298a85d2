"""The same pair again with more fields, which are filled in or named."""

import json
from typing import Any

from sqlalchemy import select

from app.db import read_session
from app.models import Choice, Comparison, Import, Response, Slot
from tests.factory import Factory
from tests.services.collecting.imports.test_load import load

PLAIN = {"prompt": "q", "responses": ["a", "b"]}
MORE = PLAIN | {"priority": 9, "sources": ["m1", "m2"], "gold": "first", "id": "z"}


def bring(factory: Factory, project: Any, *rows: dict[str, Any]) -> Import:
    return load(factory, project, "\n".join(map(json.dumps, rows)).encode())


def stored(factory: Factory) -> tuple[Any, ...]:
    with read_session(factory.engine) as session:
        row = session.scalars(select(Comparison)).one()
        sources = [
            session.get_one(Response, number).source_name for number in (row.first_response_id, row.second_response_id)
        ]
        priorities = set(session.scalars(select(Slot.priority)))
        return row.priority, row.gold_choice, row.external_id, sources, priorities


def test_what_is_new_is_filled_in(factory: Factory) -> None:
    row = bring(factory, factory.project(judgments_per_comparison=2), PLAIN, MORE)
    assert (row.added, row.duplicates, row.filled, row.report.differences) == (1, 1, 1, [])
    assert stored(factory) == (9, Choice.FIRST, "z", ["m1", "m2"], {9})
    assert bring(factory, factory.project(), PLAIN).filled == 0


def test_what_differs_is_named_and_stays(factory: Factory) -> None:
    project = factory.project()
    bring(factory, project, MORE)
    row = bring(factory, project, PLAIN, PLAIN | {"priority": 5, "sources": ["m1", "m3"], "gold": "tie", "id": "y"})
    assert (row.duplicates, row.filled) == (2, 0)
    assert [(one.line, one.field, one.stored, one.given) for one in row.report.differences] == [
        (2, "priority", "9", "5"),
        (2, "gold_choice", "first", "tie"),
        (2, "external_id", "z", "y"),
        (2, "source", "m2", "m3"),
    ]
    assert stored(factory) == (9, Choice.FIRST, "z", ["m1", "m2"], {9})


def test_answers_the_other_way_round_keep_their_fields(factory: Factory) -> None:
    project = factory.project()
    bring(factory, project, PLAIN)
    turned = {"prompt": "q", "responses": ["b", "a"], "sources": ["m2", "m1"], "gold": "second"}
    assert bring(factory, project, turned).filled == 1
    assert stored(factory)[1:4] == (Choice.FIRST, None, ["m1", "m2"])
