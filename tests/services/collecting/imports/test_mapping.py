"""What a person says of columns, kept by the set of columns."""

import pytest

from app.db import read_session
from app.errors import Invalid
from app.services.collecting.imports import mapping
from app.services.collecting.imports.records.roles import Role
from tests.factory import Factory

ROWS = [(1, {"b": "x", "a": "y"}, 9)]


def test_a_mapping_is_kept_by_its_columns_in_its_project(factory: Factory) -> None:
    project, other = factory.project(), factory.project()
    given = {"a": Role.PROMPT}
    assert mapping.settle(factory.engine, project_id=project.id, rows=ROWS, given=given) == given
    assert (
        mapping.settle(factory.engine, project_id=project.id, rows=[(1, {"a": "1", "b": None}, 9)], given=None) == given
    )
    assert mapping.settle(factory.engine, project_id=project.id, rows=[(1, {"a": "1"}, 9)], given=None) == {}
    assert mapping.settle(factory.engine, project_id=other.id, rows=ROWS, given=None) == {}
    changed = {"a": Role.LEFT_OUT}
    mapping.settle(factory.engine, project_id=project.id, rows=ROWS, given=changed, keep=False)
    with read_session(factory.engine) as session:
        assert mapping.kept(session, project_id=project.id, columns=["a", "b"]) == given


def test_what_was_said_is_taken_back(factory: Factory) -> None:
    project = factory.project()
    mapping.settle(factory.engine, project_id=project.id, rows=ROWS, given=mapping.checked({"a": "prompt"}))
    given = mapping.checked({"a": "auto"})
    assert given == {} and mapping.checked({}) is None
    assert mapping.settle(factory.engine, project_id=project.id, rows=ROWS, given=given) == {}
    assert mapping.settle(factory.engine, project_id=project.id, rows=ROWS, given=None) == {}


def test_columns_are_those_of_the_first_rows_with_nested_ones_by_their_path() -> None:
    rows = [(1, {"input": {"messages": []}, "x": 1}, 9), (2, {"y": 1}, 9)]
    assert mapping.columns_of(rows) == ["input.messages", "x", "y"]


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(Invalid):
        mapping.checked({f"c{number}": "left_out" for number in range(501)})
