"""Many rows at once, the quick way of each database: executemany of the driver on SQLite, COPY on PostgreSQL."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Dialect,
    FromClause,
    Table,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.types import TypeEngine


def insert_rows(
    session: Session,
    model: type[DeclarativeBase],
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    typed: bool = False,
    **same: Any,
) -> None:
    """Inserts rows, all with the values of `same` too.

    Values of rows go to the driver as they are: a JSON column takes text, an enumeration its value. `typed` ones, and those
    of `same`, are what the model's attributes are. Columns that aren't named get the database's default, not the model's.
    """
    if not rows:
        return
    session.flush()
    connection = session.connection()
    table = model.__table__
    assert isinstance(table, Table)
    constant = tuple(_bind(table, name, connection.dialect)(value) for name, value in same.items())
    if typed:
        binds = [_bind(table, name, connection.dialect) for name in columns]
        rows = [tuple(bind(value) for bind, value in zip(binds, row, strict=True)) for row in rows]
    names = ", ".join((*columns, *same))
    complete = [row + constant for row in rows] if constant else list(rows)
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in complete:
                copy.write_row(row)
        return
    places = ", ".join("?" * (len(columns) + len(same)))
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({places})"  # noqa: S608 - names of our own
    connection.exec_driver_sql(statement, complete)


def next_ids(session: Session, model: type[DeclarativeBase], count: int) -> list[int]:
    """Ids for rows to be inserted. On SQLite nobody else may insert before this transaction ends, and nobody can."""
    if session.get_bind().dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence(model.__tablename__, "id")
        return list(session.scalars(select(func.nextval(sequence)).select_from(func.generate_series(1, count))))
    last = session.scalar(select(func.max(literal_column("id"))).select_from(model)) or 0
    return list(range(last + 1, last + 1 + count))


def among(
    session: Session, column: InstrumentedAttribute[Any], values: Collection[Any], name: str = "values"
) -> ColumnElement[bool]:
    """Whether a column has one of these values: one parameter however many there are, so that one statement does."""
    if session.get_bind().dialect.name == "postgresql":
        kind: Any = BigInteger() if column.type.python_type is int else column.type
        return column == func.any(bindparam(name, list(values), postgresql.ARRAY(kind), unique=True))
    told: BindParameter[str] = bindparam(name, orjson.dumps(list(values)).decode(), unique=True)
    return column.in_(select(literal_column("value")).select_from(func.json_each(told)))


def given(session: Session, rows: Collection[tuple[Any, ...]], **kinds: type[TypeEngine[Any]]) -> FromClause:
    """Rows of ours as a table to join with; `kinds` are its columns in their order. One statement does for any number."""
    if session.get_bind().dialect.name == "postgresql":
        columns = zip(*rows, strict=True) if rows else ((),) * len(kinds)
        arrays = [
            bindparam(name, list(values), postgresql.ARRAY(kind()), unique=True)
            for (name, kind), values in zip(kinds.items(), columns, strict=True)
        ]
        return func.unnest(*arrays).table_valued(*kinds, name="given").render_derived()
    told: BindParameter[str] = bindparam("given", orjson.dumps(rows).decode(), unique=True)
    places = [func.json_extract(literal_column("value"), f"$[{at}]").label(name) for at, name in enumerate(kinds)]
    return select(*places).select_from(func.json_each(told)).subquery("given")


def _bind(table: Table, name: str, dialect: Dialect) -> Callable[[Any], Any]:
    """What makes of a value of the model's one of the driver's."""
    return table.c[name].type.dialect_impl(dialect).bind_processor(dialect) or (lambda value: value)
