"""What a person said that a file's columns become, kept by the set of columns for the project's next file with the same."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import Invalid
from app.models import ColumnMap, Project
from app.models.base import now as utc_now
from app.services.collecting.imports.records.plan import unfolded
from app.services.collecting.imports.records.refusals import BadLine
from app.services.collecting.imports.records.roles import Role, check_given

MOST_COLUMNS = 500
FIRST_ROWS = 100
AS_THE_FILE_SAYS = "auto"  # in place of a role: takes back what was said of a column before


def checked(given: Mapping[str, str] | None) -> dict[str, Role] | None:
    """A mapping from column to role; None where nobody said anything, so that what was kept is used. Raises Invalid."""
    if not given:
        return None
    if len(given) > MOST_COLUMNS:
        raise Invalid(f"The mapping names {len(given):,} columns.", f"Name up to {MOST_COLUMNS}.", field="map")
    try:
        return check_given({column: role for column, role in given.items() if role != AS_THE_FILE_SAYS})
    except BadLine as bad:
        raise Invalid(bad.message, "", field="map") from bad


def parsed(words: Iterable[str]) -> dict[str, str]:
    """`COLUMN=ROLE`, as a command or a query writes it. Raises Invalid."""
    given = {}
    for word in words:
        column, equals, role = word.rpartition("=")
        if not equals or not column:
            raise Invalid(f"“{word[:60]}” isn't COLUMN=ROLE.", "Write question=prompt, for instance.", field="map")
        given[column] = role
    return given


def columns_of(rows: Sequence[Any]) -> list[str]:
    """The columns of a file's first rows, in the order in which they come; those of nested objects by their path."""
    columns: dict[str, None] = {}
    for _, row, _ in rows[:FIRST_ROWS]:
        if isinstance(row, dict):
            columns.update(dict.fromkeys(unfolded(row)))
    return list(columns)[:MOST_COLUMNS]


def key_of(columns: Iterable[str]) -> str:
    return hashlib.sha256(orjson.dumps(sorted(columns))).hexdigest()


def settle(
    engine: Engine, *, project_id: int, rows: Sequence[Any], given: Mapping[str, Role] | None, keep: bool = True
) -> dict[str, Role]:
    """The mapping of a file that begins with these rows: the given one, which is kept, or the one that was kept for the
    same columns."""
    columns = columns_of(rows)
    if not columns:
        return dict(given or {})
    if given is None:
        with read_session(engine) as session:
            return kept(session, project_id=project_id, columns=columns)
    if keep:
        with write_session(engine) as session:
            _keep(session, project_id, columns, given)
    return dict(given)


def kept(session: Session, *, project_id: int, columns: Iterable[str]) -> dict[str, Role]:
    """What was said before of a file with these columns in this project."""
    roles = session.scalar(
        select(ColumnMap.roles).where(ColumnMap.project_id == project_id, ColumnMap.columns_hash == key_of(columns))
    )
    return {column: Role(role) for column, role in (roles or {}).items()}


def _keep(session: Session, project_id: int, columns: Iterable[str], given: Mapping[str, Role]) -> None:
    # One at a time in a project, so that two imports with the same columns find each other's row.
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    key = key_of(columns)
    row = session.scalar(select(ColumnMap).where(ColumnMap.project_id == project_id, ColumnMap.columns_hash == key))
    if row is None:
        row = ColumnMap(project_id=project_id, columns_hash=key)
        session.add(row)
    row.roles = {column: role.value for column, role in given.items()}
    row.updated_at = utc_now()
