"""Which rows belong to a project, by the foreign keys that lead to it: a new table needs no word here. Pure."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Column, FromClause, Select, Table, literal, select

from app.models import AuditEntry, Base, LeftoverFile, Project
from app.models.base import FileList

# They speak of a project by its number and stay when it goes.
KEPT = frozenset({AuditEntry.__tablename__, LeftoverFile.__tablename__, Project.__tablename__})
PROJECT_ID = "project_id"
# What a row of another project may rest on.
RESULTS = ("checkpoints", "snapshots")


@dataclass(frozen=True, slots=True)
class Owned:
    """A table whose rows belong to projects: by their own `project_id`, or through `column`, which names a row of `parent`."""

    table: Table
    column: Column[Any]
    parent: "Owned | None" = None

    @property
    def keys(self) -> list[Column[Any]]:
        return list(self.table.primary_key.columns)

    def rows(self, *columns: Any) -> Select[Any]:
        """A query of these columns beside `project`, the number of the project that a row belongs to."""
        source: FromClause = self.table
        at: Owned = self
        while at.parent is not None:
            (foreign,) = at.column.foreign_keys
            source = source.join(at.parent.table, at.column == foreign.column)
            at = at.parent
        return select(*columns, at.column.label("project")).select_from(source)

    def of(self, project_id: int) -> Select[Any]:
        """The keys of a project's rows, the newest first: a row may name an older one of its table."""
        rows = self.rows(*self.keys).subquery()
        keys = list(rows.columns)[:-1]
        return select(*keys).where(rows.c.project == literal(project_id)).order_by(*(key.desc() for key in keys))


@cache
def tables() -> tuple[Owned, ...]:
    """All of them, each after those that name it."""
    owned: dict[str, Owned] = {}
    for table in Base.metadata.sorted_tables:
        if table.name not in KEPT and (one := _owned(table, owned)):
            owned[table.name] = one
    return tuple(reversed(owned.values()))


def _owned(table: Table, known: dict[str, Owned]) -> Owned | None:
    if PROJECT_ID in table.columns:
        return Owned(table, table.columns[PROJECT_ID])
    for column in table.columns:
        for foreign in column.foreign_keys:
            if not column.nullable and (parent := known.get(foreign.column.table.name)):
                return Owned(table, column, parent)
    return None


def resting_on(project_id: int) -> list[tuple[str, Select[Any]]]:
    """(what kind of row, query of the project that has one) for whatever in other projects names this project's results."""
    by_name = {one.table.name: one for one in tables()}
    queries = []
    for one in tables():
        for column in one.table.columns:
            for foreign in column.foreign_keys:
                target = by_name.get(foreign.column.table.name)
                if target is None or target.table.name not in RESULTS or column is one.column:
                    continue
                theirs = one.rows(column.label("names")).subquery()
                ours = target.rows(foreign.column.label("key")).subquery()
                query = (
                    select(theirs.c.project)
                    .join(ours, ours.c.key == theirs.c.names)
                    .where(ours.c.project == project_id, theirs.c.project != project_id)
                )
                queries.append((one.table.name, query.limit(1)))
    return queries


def stored_keys(one: Owned) -> list[Column[Any]]:
    """The columns of a table that name files of the store."""
    if one.table.name == "checkpoint_files":
        return [one.table.c.key]
    return [column for column in one.table.columns if column.type is FileList]
