"""Bring the database to the newest migration, and say whether it is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from app.paths import MIGRATIONS

# Alembic is imported where it is used: the web server and the commands start without it.
if TYPE_CHECKING:
    from alembic.config import Config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Applies what is missing, in one transaction; a second process waits for the first."""
    from alembic import command

    with transaction(engine) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Takes back what came after `revision`, in one transaction; "base" takes back everything."""
    from alembic import command

    with transaction(engine) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction in which tables may change, alone among all processes.

    SQLite can't add a CHECK to a table: Alembic copies the table and drops the old one. With foreign keys on, that drop
    would delete or blank the rows that point to it, and they can't be turned off within a transaction. So they are off
    meanwhile, and every row is checked before the commit. Raises RuntimeError where one points to nothing.
    """
    with engine.connect() as connection:
        if connection.dialect.name != "sqlite":
            with connection.begin():
                # Any number will do that is the same in each process.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7203370)")
                yield connection
            return
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if orphans:
                    raise RuntimeError(
                        f"The migration would leave rows that point to nothing, the first in {orphans[0]}."
                    )
        finally:
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """(the database's revision, the newest one of this code)."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with engine.execution_options(read_only=True).connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_config()).get_current_head()


def known_revisions() -> frozenset[str]:
    """Every revision that this code can bring to the newest."""
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option(
        "script_location", str(MIGRATIONS).replace("%", "%%")
    )  # a file of settings, where % means something
    config.attributes["connection"] = connection
    return config
