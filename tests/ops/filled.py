"""Small filled databases of earlier revisions: `databases/NNNN.jsonl`, one row a line with its table."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, MetaData, insert, text

from app.ops import migrate
from app.storage import Storage

DATABASES = Path(__file__).parent / "databases"
Row = dict[str, Any]


@dataclass(frozen=True)
class Filled:
    """What a file holds. `given`: tokens and passwords in the clear; `files`: the artifact store's, by key;
    `rows`: each table's, in an order that foreign keys allow."""

    given: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, revision: str) -> "Filled":
        lines = [
            json.loads(line) for line in (DATABASES / f"{revision}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        filled = cls(lines[0]["given"])
        for line in lines[1:]:
            ((table, row),) = line.items()
            if table == "file":
                filled.files[row["key"]] = row["text"]
            else:
                filled.rows[table].append(row)
        return filled

    def load(self, engine: Engine, revision: str) -> None:
        """Makes a blank database one of `revision` with these rows in it."""
        migrate.upgrade(engine, revision)
        with engine.begin() as connection:
            tables = MetaData()
            tables.reflect(connection)
            for name, rows in self.rows.items():
                table = tables.tables[name]
                times = {column.name for column in table.columns if isinstance(column.type, DateTime)}
                connection.execute(insert(table), [_with_times(row, times) for row in rows])
                if connection.dialect.name == "postgresql":
                    _go_on_counting(connection, name)

    def store(self, storage: Storage) -> None:
        for key, content in self.files.items():
            storage.put_bytes(key, content.encode())


def rows_of(engine: Engine) -> dict[str, list[Row]]:
    """Every row of every table as the files have them, by primary key."""
    with engine.connect() as connection:
        tables = MetaData()
        tables.reflect(connection)
        return {
            table.name: [
                {name: _plain(value) for name, value in row.items()}
                for row in connection.execute(table.select().order_by(*table.primary_key.columns)).mappings()
            ]
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


def _with_times(row: Row, times: set[str]) -> Row:
    return {name: datetime.fromisoformat(value) if name in times and value else value for name, value in row.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _go_on_counting(connection: Connection, table: str) -> None:
    """The next row's id comes after the loaded ones."""
    connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"))
