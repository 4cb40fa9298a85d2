"""Engine, SQLite pragmas and session scopes: one request or one task step is one commit, and wishes come after it."""

import logging
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session, SessionTransaction

from app.config import Settings, get_settings
from app.writer import FairLock

log = logging.getLogger(__name__)
_writing: ContextVar[bool] = ContextVar("writing", default=False)

# A transaction is on the disk when it is committed, also on macOS: who was told "thank you" isn't asked again after a
# power cut.
PRAGMAS = (
    "journal_mode=WAL",
    "foreign_keys=ON",
    "busy_timeout=30000",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
)
BUSY_SECONDS = 30
OTHER_CONNECTIONS = 16
WRITER = "writer"  # in a connection's info: it has the right to write
CONNECTION = "connection"  # in session.info: that of its transaction
RESTS_SINCE = "rests_since"  # in a connection's info: since when nobody has it
RESTED_SECONDS = 5.0
WISHES = "wishes"  # in session.info: [(wish, the transaction in which it was noted)]


class Wish(Protocol):
    """What the world is to hear of a unit of work once it is committed: a ring, a wake-up, a message to somebody.

    Two equal wishes are carried out once, so a wish is best a frozen dataclass of ids.
    """

    def carry_out(self, engine: Engine) -> None:
        """Do it. No transaction is open; the rows can be read by everybody."""


def make_engine(url: str, *, at_once: int = 16) -> Engine:
    """An engine for SQLite (WAL, foreign keys, BEGIN IMMEDIATE unless read-only) or PostgreSQL (psycopg 3).

    `at_once` requests have a connection each; there are some more for imports, streams and checks.
    """
    pool = {"pool_size": at_once, "max_overflow": OTHER_CONNECTIONS}
    if url.startswith("postgresql://"):  # from a caller other than the settings, which name the driver
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    if not url.startswith("sqlite"):
        engine = create_engine(url, hide_parameters=True, **pool)
        _look_at_rested(engine)
        return engine
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        **pool,
    )
    writer = FairLock()

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves: the driver's own comes too late to be IMMEDIATE
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get("read_only", False):
            connection.exec_driver_sql("BEGIN")
            return
        # Held until the connection is back in the pool, which it is right after the commit or the rollback.
        if not connection.info.get(WRITER):
            if not writer.acquire(BUSY_SECONDS):
                raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))
            connection.info[WRITER] = True
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "checkin")
    def _on_checkin(_connection: Any, record: Any) -> None:
        if record.info.pop(WRITER, False):
            writer.release()

    return engine


def _look_at_rested(engine: Engine) -> None:
    """Asks a connection that rested whether it still lives, before anybody relies on it. One that was used just now is taken as it is:
    the question costs as much as one of the request's own."""

    @event.listens_for(engine, "checkin")
    def _on_checkin(_connection: Any, record: Any) -> None:
        record.info[RESTS_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(RESTS_SINCE, math.inf) < RESTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            if engine.dialect.is_disconnect(error, connection, None):
                raise InvalidatePoolError from error  # those that rested as long are gone too; the pool makes new ones
            raise


@lru_cache
def _engine_for(url: str, at_once: int) -> Engine:
    return make_engine(url, at_once=at_once)


def get_engine(settings: Settings | None = None) -> Engine:
    """This process's engine for the configured database. It knows its settings; see `settings_of`."""
    settings = settings or get_settings()
    if settings.is_sqlite:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return _engine_for(settings.database, settings.requests_at_once).execution_options(settings=settings)


def settings_of(engine: Engine | Connection) -> Settings:
    """The settings of the installation whose database this is."""
    return engine.get_execution_options().get("settings") or get_settings()


def database_now(session: Session) -> datetime:
    """The time by the database's clock, where it has one of its own: machines whose clocks differ agree on leases."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    return datetime.now(UTC)


@contextmanager
def writing() -> Iterator[None]:
    """Marks what runs within as holding a write transaction, which on SQLite is the only one: see `is_writing`."""
    before = _writing.get()
    _writing.set(True)
    try:
        yield
    finally:
        _writing.set(before)  # not reset(): a web request opens and closes its session in copies of its context


def is_writing() -> bool:
    """Whether a write transaction is open around the running code. Slow things refuse to be done then."""
    return _writing.get()


@contextmanager
def write_session(engine: Engine | None = None) -> Iterator[Session]:
    """A unit of work: commits at the end, rolls back on any error, and carries out its wishes after the commit."""
    engine = engine or get_engine()
    with writing(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
    _carry_out(session, engine)


@contextmanager
def read_session(engine: Engine | None = None) -> Iterator[Session]:
    """A session that only looks: on SQLite it never waits for a writer. What was changed in its objects isn't stored.

    It ends with a commit of nothing: at a rollback psycopg forgets every statement that PostgreSQL has prepared for the connection,
    and each is planned anew, which takes longer than to carry it out.
    """
    with Session(_that_reads(engine or get_engine()), expire_on_commit=False) as session:
        yield session
        session.expunge_all()
        session.commit()


@contextmanager
def look_session(engine: Engine) -> Iterator[Session]:
    """As `read_session`, for one short look such as who asks. PostgreSQL is told of no transaction, whose begin and end cost as much
    as the look: each statement stands for itself, and none may be read in parts (`yield_per`)."""
    with Session(_that_looks(engine), expire_on_commit=False) as session:
        yield session
        session.expunge_all()
        session.commit()


# Made once, for every request looks.
@lru_cache(16)
def _that_reads(engine: Engine) -> Engine:
    return engine.execution_options(read_only=True)


@lru_cache(16)
def _that_looks(engine: Engine) -> Engine:
    reading = engine.execution_options(read_only=True)
    return reading if engine.dialect.name == "sqlite" else reading.execution_options(isolation_level="AUTOCOMMIT")


def connection_of(session: Session) -> Connection:
    """The connection of the session's transaction, for statements that need no objects. The session looks it up anew each time,
    which costs as much as a small statement."""
    held: Connection | None = session.info.get(CONNECTION)
    if held is None or held.closed or not held.in_transaction():
        held = session.info[CONNECTION] = session.connection()
    return held


def after_commit(session: Session, wish: Wish) -> None:
    """Note a wish for when this unit of work is committed. A rollback, also one to a savepoint, drops it."""
    session.info.setdefault(WISHES, []).append((wish, session.get_nested_transaction() or session.get_transaction()))


def _carry_out(session: Session, engine: Engine) -> None:
    wishes = dict.fromkeys(wish for wish, _ in session.info.pop(WISHES, ()))
    for wish in wishes:
        try:
            wish.carry_out(engine)
        except Exception:  # the work is committed: whoever asked for it must not hear that it failed
            log.exception("wish.failed", extra={"wish": repr(wish)})


@event.listens_for(Session, "after_soft_rollback")
def _drop_wishes(session: Session, ended: SessionTransaction) -> None:
    if WISHES in session.info:
        session.info[WISHES] = [(wish, noted) for wish, noted in session.info[WISHES] if not is_within(noted, ended)]


def is_within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    """Whether what was done in one transaction is undone by a rollback of the other."""
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer
