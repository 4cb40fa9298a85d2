"""A whole database into a file and back: SQLite's own backup, or PostgreSQL's own programs."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, inspect, make_url, text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import get_engine, read_session
from app.errors import Conflict, Unavailable

FILES = SQLITE_FILE, POSTGRESQL_FILE = "prefloop.db", "database.dump"
PLACES = Path("/usr/lib/postgresql")  # where Debian puts programs of several versions, none of them on the path


def file_name(settings: Settings) -> str:
    return SQLITE_FILE if settings.is_sqlite else POSTGRESQL_FILE


@contextmanager
def copied(settings: Settings, target: Path) -> Iterator[Session]:
    """Writes the database into the file `target` as it is at one moment, and gives a session that reads what was
    written, whatever people do meanwhile."""
    if settings.is_sqlite:
        with _copy_of_sqlite(settings, target) as session:
            yield session
        return
    engine = get_engine(settings).execution_options(isolation_level="REPEATABLE READ")
    with read_session(engine) as session:
        moment = session.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        command = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={moment}", f"--file={target}"]
        _run("pg_dump", settings, command)
        yield session


@contextmanager
def _copy_of_sqlite(settings: Settings, target: Path) -> Iterator[Session]:
    source = sqlite3.connect(str(make_url(settings.database).database), timeout=30)
    copy = sqlite3.connect(target)
    try:
        source.backup(copy)  # all pages in one go: a writer meanwhile neither waits nor gets in
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    finally:
        source.close()
        copy.close()
    engine = create_engine("sqlite://", creator=lambda: _read_only(target), poolclass=NullPool)
    with Session(engine) as session:
        yield session
    engine.dispose()


def _read_only(file: Path) -> sqlite3.Connection:
    """A connection that leaves the file as it is, without a log beside it."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def check(file: Path) -> None:
    """Reads the whole copy. Raises Unavailable where it isn't sound."""
    if file.name != SQLITE_FILE:
        _run("pg_restore", None, ["--file=/dev/null", str(file)])
        return
    copy = _read_only(file)
    try:
        problems = [row[0] for row in copy.execute("PRAGMA integrity_check")]
        orphans = copy.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"{file.name} isn't a sound database: {error}.", "Make the backup again.") from error
    finally:
        copy.close()
    if problems != ["ok"] or orphans:
        raise Unavailable(f"{file.name} isn't a sound database: {problems[0]}.", "Run: prefloop doctor")


def is_empty(settings: Settings) -> bool:
    """Whether there is no database yet, or one without a table."""
    if settings.is_sqlite:
        path = Path(str(make_url(settings.database).database))
        return not path.exists() or path.stat().st_size == 0
    return not inspect(get_engine(settings)).get_table_names()


def put_back(settings: Settings, file: Path) -> None:
    """The database out of a copy of `copied`. Raises Conflict where there is one already."""
    if not is_empty(settings):
        raise Conflict("There is a database already.", "Restore into an empty data folder and an empty database.")
    if settings.is_sqlite:
        path = Path(str(make_url(settings.database).database))
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.restored")
        shutil.copyfile(file, fresh)
        os.replace(fresh, path)
        return
    target = [
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        f"--dbname={_address(settings)}",
    ]
    _run("pg_restore", settings, [*target, str(file)])


def size(engine: Engine) -> int:
    """Bytes that the database takes."""
    if engine.dialect.name != "sqlite":
        with read_session(engine) as session:
            return int(session.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    path = str(engine.url.database)
    return sum(os.path.getsize(part) for part in (path, f"{path}-wal") if os.path.exists(part))


def _address(settings: Settings) -> str:
    """Without its password: other accounts of this machine can read a command line."""
    url = make_url(settings.database).set(drivername="postgresql", password=None)
    return url.render_as_string(hide_password=False)


def _run(program: str, settings: Settings | None, options: list[str]) -> None:
    environment: Mapping[str, str] = os.environ
    if settings is not None:
        if password := make_url(settings.database).password:
            environment = {**os.environ, "PGPASSWORD": str(password)}
        if program == "pg_dump":
            options = [*options, f"--dbname={_address(settings)}"]
    done = subprocess.run(
        [_program(program), *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise Unavailable(
            f"{program} failed: {lines[0].removeprefix(f'{program}: ')}",
            "Its version must be at least the server's; the client programs of PostgreSQL have both.",
        )


def _program(name: str) -> str:
    """The program on the path, else the newest that Debian installed. Raises Unavailable."""
    if known := shutil.which(name):
        return known
    newest = sorted(
        PLACES.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0
    )
    if not newest:
        raise Unavailable(
            f"{name} isn't here.",
            "Install the client programs of PostgreSQL (Debian, Ubuntu: apt install postgresql-client).",
        )
    return str(newest[-1])
