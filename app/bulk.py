"""Many rows at once, the quick way of each database: statements of many rows on SQLite, COPY on PostgreSQL."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Dialect,
    Engine,
    FromClause,
    Table,
    bindparam,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.types import TypeEngine, UserDefinedType

AT_ONCE = 100  # rows of one statement on SQLite: more win nothing, and it takes 32,766 parameters
PAGES_KIB = 16_384  # of SQLite's pages for a large transaction; it takes 2,000 by itself
SENT_AT_ONCE = 250  # rows to PostgreSQL, which stores some while the next are written down
ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
WRITTEN = {int, str, bool, datetime, type(None)}  # what COPY reads as `str` writes it
# The sequence is looked up once, not for each id.
NEXT_IDS = text(
    "SELECT array_agg(nextval(of_table.sequence)) FROM "
    "(SELECT CAST(pg_get_serial_sequence(:name, 'id') AS regclass) AS sequence OFFSET 0) AS of_table, "
    "generate_series(1, :count)"
)


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
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for begin in range(0, len(rows), SENT_AT_ONCE):
                some = rows[begin : begin + SENT_AT_ONCE]
                if text_of_rows := _written(some, constant):
                    copy.write(text_of_rows)
                    continue
                for row in some:
                    copy.write_row(row + constant)
        return
    into = f"INSERT INTO {table.name} ({names}) VALUES "  # noqa: S608 - names of our own
    whole = len(rows) - len(rows) % AT_ONCE
    for begin in range(0, whole, AT_ONCE):
        values = constant + tuple(chain.from_iterable(rows[begin : begin + AT_ONCE]))
        connection.exec_driver_sql(into + _places(len(constant), len(columns), AT_ONCE), values)
    if whole < len(rows):
        connection.exec_driver_sql(
            into + _places(len(constant), len(columns), 1), [constant + row for row in rows[whole:]]
        )


@contextmanager
def room(session: Session) -> Iterator[None]:
    """Within, SQLite may keep more pages in memory: what a large transaction changes goes to the disk once, and nothing is read again that
    it has looked at. Afterwards the connection has what others have."""
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    connection = session.connection()
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size = -{PAGES_KIB}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size = {before}")


def _written(rows: Sequence[tuple[Any, ...]], constant: tuple[Any, ...]) -> str:
    """Rows as COPY reads them, a column at a time, where the driver would look at each value; empty where one is of a kind that only
    the driver can write."""
    columns = [_column(values) for values in zip(*rows, strict=True)]
    same = [_column((value,)) for value in constant]
    if any(column is None for column in (*columns, *same)):
        return ""
    row = "\t".join(["%s"] * len(columns) + [str(one[0]).replace("%", "%%") for one in same if one]) + "\n"
    return "".join([row % values for values in zip(*(column for column in columns if column), strict=True)])


def _column(values: Sequence[Any]) -> Sequence[Any] | None:
    kinds = set(map(type, values))
    if kinds == {int}:
        return values
    if kinds == {str}:
        together = "".join(values)
        return [_escaped(value) for value in values] if any(mark in together for mark in ESCAPES) else values
    return [_value(value) for value in values] if kinds <= WRITTEN else None


def _value(value: Any) -> Any:
    if value is None:
        return r"\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    return _escaped(value) if isinstance(value, str) else value


def _escaped(value: str) -> str:
    for mark, instead in ESCAPES.items():
        value = value.replace(mark, instead)
    return value


@lru_cache
def _places(constant: int, width: int, rows: int) -> str:
    """The parameters of some rows, of which each has the first `constant` ones too, as its last."""
    same = [f"?{number}" for number in range(1, constant + 1)]
    own = (range(begin, begin + width) for begin in range(constant + 1, constant + 1 + rows * width, width))
    return ", ".join(f"({', '.join([*(f'?{number}' for number in numbers), *same])})" for numbers in own)


def next_ids(session: Session, model: type[DeclarativeBase], count: int) -> list[int]:
    """Ids for rows to be inserted. On SQLite nobody else may insert before this transaction ends, and nobody can."""
    if session.get_bind().dialect.name == "postgresql":
        return list(session.execute(NEXT_IDS, {"name": model.__tablename__, "count": count}).scalar_one() or ())
    last = session.scalar(select(func.max(literal_column("id"))).select_from(model)) or 0
    return list(range(last + 1, last + 1 + count))


def look_at_sizes(engine: Engine, models: Mapping[type[DeclarativeBase], Collection[str]]) -> None:
    """Has PostgreSQL look at tables that have grown, and at these columns of theirs: to sort a sample of long texts takes as long as to
    import thousands. A plan that it keeps for a connection was made for what a table was, and reads a small one from end
    to end; autovacuum would look in a minute, if it runs."""
    if engine.dialect.name == "postgresql":
        names = ", ".join(f"{model.__tablename__} ({', '.join(columns)})" for model, columns in models.items())
        with engine.begin() as connection:
            connection.execute(text(f"ANALYZE {names}"))


def among(
    session: Session, column: InstrumentedAttribute[Any], values: Collection[Any], name: str = "values"
) -> ColumnElement[bool]:
    """Whether a column has one of these values: one parameter however many there are, so that one statement does."""
    if session.get_bind().dialect.name == "postgresql":
        kind: Any = BigInteger() if column.type.python_type is int else column.type
        return column == func.any(_array(name, values, kind))
    told: BindParameter[str] = bindparam(name, orjson.dumps(list(values)).decode(), unique=True)
    return column.in_(select(literal_column("value")).select_from(func.json_each(told)))


def given(session: Session, rows: Collection[tuple[Any, ...]], **kinds: type[TypeEngine[Any]]) -> FromClause:
    """Rows of ours as a table to join with; `kinds` are its columns in their order. One statement does for any number."""
    if session.get_bind().dialect.name == "postgresql":
        columns = zip(*rows, strict=True) if rows else ((),) * len(kinds)
        arrays = [_array(name, values, kind()) for (name, kind), values in zip(kinds.items(), columns, strict=True)]
        return func.unnest(*arrays).table_valued(*kinds, name="given").render_derived()
    told: BindParameter[str] = bindparam("given", orjson.dumps(rows).decode(), unique=True)
    places = [func.json_extract(literal_column("value"), f"$[{at}]").label(name) for at, name in enumerate(kinds)]
    return select(*places).select_from(func.json_each(told)).subquery("given")


def _array(name: str, values: Collection[Any], kind: TypeEngine[Any]) -> ColumnElement[Any]:
    """Values as PostgreSQL writes an array: one text, where the driver would look at each value."""
    if isinstance(kind, BigInteger):
        told = ",".join(map(str, values))
    else:
        told = ",".join(['"' + value.replace("\\", r"\\").replace('"', r"\"") + '"' for value in values])
    return bindparam(name, f"{{{told}}}", _Written(isinstance(kind, BigInteger)), unique=True)


class _Written(UserDefinedType[str]):
    """An array that is sent as PostgreSQL writes it. The cast says what the parameter is, so nothing is cast when it runs."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, of_numbers: bool) -> None:
        self.of_numbers = of_numbers

    def get_col_spec(self, **_: object) -> str:
        return "BIGINT[]" if self.of_numbers else "VARCHAR[]"


def _bind(table: Table, name: str, dialect: Dialect) -> Callable[[Any], Any]:
    """What makes of a value of the model's one of the driver's."""
    return table.c[name].type.dialect_impl(dialect).bind_processor(dialect) or (lambda value: value)
