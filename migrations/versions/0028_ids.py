"""Numbers that stand in addresses, in the audit trail and in names of stored files are never given again. PostgreSQL never does so; SQLite
gives the highest one again once its row is gone, unless the table says AUTOINCREMENT, which it can only say from its beginning."""

import re
from collections.abc import Callable

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

TABLES = (
    "projects",
    "jobs",
    "snapshots",
    "checkpoints",
    "imports",
    "extracts",
    "exclusions",
    "evaluations",
    "rounds",
)
PLAIN = re.compile(r"^(\W*id INTEGER NOT NULL),", re.M)
KEY = re.compile(r",\s*CONSTRAINT \w+ PRIMARY KEY \(id\)")
COUNTED = re.compile(r"^(\W*id INTEGER NOT NULL) PRIMARY KEY AUTOINCREMENT,", re.M)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in TABLES:
            _copy(table, _counted)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in TABLES:
            _copy(table, _plain)


def _counted(table: str, sql: str) -> str:
    without_key, keys = KEY.subn("", sql)
    counted, columns = PLAIN.subn(r"\1 PRIMARY KEY AUTOINCREMENT,", without_key)
    return _once(table, counted, keys, columns)


def _plain(table: str, sql: str) -> str:
    plain, columns = COUNTED.subn(r"\1,", sql)
    return _once(table, f"{plain[: plain.rindex(')')].rstrip()}, CONSTRAINT pk_{table} PRIMARY KEY (id))", columns)


def _once(table: str, sql: str, *changes: int) -> str:
    if set(changes) != {1}:
        raise RuntimeError(f"The table {table} isn't as an earlier version made it:\n{sql}")
    return sql


def _copy(table: str, changed: Callable[[str, str], str]) -> None:
    """Makes the table anew, by the words by which it was made, with all that it holds and its indexes. Foreign keys are off meanwhile."""
    bind = op.get_bind()
    words = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type = ? AND sql IS NOT NULL"
    made = bind.exec_driver_sql(words, (table, "table")).scalar_one()
    indexes = bind.exec_driver_sql(words, (table, "index")).scalars().all()
    other = f"_{table}_anew"
    op.execute(re.sub(rf'^CREATE TABLE "?{table}"?', f"CREATE TABLE {other}", changed(table, made), count=1))
    op.execute(f"INSERT INTO {other} SELECT * FROM {table}")  # noqa: S608
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE {other} RENAME TO {table}")
    for index in indexes:
        op.execute(index)
