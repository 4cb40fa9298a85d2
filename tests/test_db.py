"""Units of work: what is wished for in one is carried out once, after its commit, and never after a rollback."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import db
from app.config import Settings
from app.db import after_commit, get_engine, look_session, make_engine, read_session, settings_of, write_session
from app.models import User
from app.services.collecting import slots
from tests.factory import Factory

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

carried_out: list[str] = []


class Failure(Exception):
    pass


@dataclass(frozen=True)
class Note:
    """Writes its word down, and looks whether the work that it belongs to can be read by others."""

    word: str

    def carry_out(self, engine: Engine) -> None:
        if self.word == "broken":
            raise OSError("the world is away")
        with read_session(engine) as session:
            seen = session.scalar(text("SELECT count(*) FROM work"))
        with write_session(engine) as session:  # nobody holds the only writer
            session.execute(text("SELECT 1"))
        carried_out.append(f"{self.word} {seen}")


@pytest.fixture(autouse=True)
def work(engine: Engine) -> Iterator[None]:
    carried_out.clear()
    with write_session(engine) as session:
        session.execute(text("CREATE TABLE work (id INTEGER)"))
    yield
    with write_session(engine) as session:
        session.execute(text("DROP TABLE work"))


def do(session: Session) -> None:
    session.execute(text("INSERT INTO work VALUES (1)"))


def test_wishes_are_carried_out_in_order_once_each_after_the_commit(engine: Engine) -> None:
    with write_session(engine) as session:
        do(session)
        for word in ("first", "second", "first"):
            after_commit(session, Note(word))
        assert carried_out == []
    assert carried_out == ["first 1", "second 1"]


def test_rolled_back_work_wishes_nothing(engine: Engine) -> None:
    def fail() -> None:
        with write_session(engine) as session:
            do(session)
            after_commit(session, Note("never"))
            raise Failure

    with pytest.raises(Failure):
        fail()
    with write_session(engine) as session:
        do(session)
        after_commit(session, Note("never"))
        session.rollback()
    assert carried_out == []


def test_savepoint_takes_its_wishes_along(engine: Engine) -> None:
    def fail(session: Session) -> None:
        with session.begin_nested():
            with session.begin_nested():
                after_commit(session, Note("released, then rolled back"))
            after_commit(session, Note("rolled back"))
            after_commit(session, Note("outer"))
            raise Failure

    with write_session(engine) as session:
        after_commit(session, Note("outer"))
        with pytest.raises(Failure):
            fail(session)
        with session.begin_nested():
            do(session)
            after_commit(session, Note("released"))
    assert carried_out == ["outer 1", "released 1"]


def test_wish_that_fails_takes_neither_the_work_nor_the_next_wish_along(engine: Engine) -> None:
    with write_session(engine) as session:
        do(session)
        after_commit(session, Note("broken"))
        after_commit(session, Note("next"))
    assert carried_out == ["next 1"]


def test_engine_knows_the_settings_of_its_installation(settings: Settings) -> None:
    other = settings.model_copy(update={"job_attempts": 17})
    assert settings_of(get_engine(other)).job_attempts == 17
    assert settings_of(get_engine(settings)) == settings


def test_what_a_reading_session_changes_in_its_objects_is_not_stored(factory: Factory) -> None:
    user = factory.user()
    with read_session(factory.engine) as session:
        session.get_one(User, user.id).display_name = "Somebody else"
        session.add(User(username="nobody", display_name="Nobody", role=user.role))
    with read_session(factory.engine) as session:
        assert session.get_one(User, user.id).display_name == user.display_name
        assert session.query(User).count() == 1


def test_after_a_look_a_connection_is_as_before(engine: Engine, factory: Factory) -> None:
    factory.user(username="ada")
    with look_session(engine) as session:
        session.scalars(select(User)).one().display_name = "Changed"
    for scope in (read_session, write_session):  # the pool gives the connection that was used last
        with scope(engine) as session:
            assert session.scalars(select(User.display_name)).one() != "Changed"
    with suppress(ZeroDivisionError), write_session(engine) as session:
        session.execute(update(User).values(display_name="Lost"))
        raise ZeroDivisionError
    with read_session(engine) as session:
        assert session.scalars(select(User.display_name)).one() != "Lost"


@postgresql_only
def test_a_look_is_no_transaction_for_postgresql(database_url: str) -> None:
    engine = make_engine(database_url)
    with look_session(engine) as session:
        first, second = (session.scalar(select(func.transaction_timestamp())) for _ in range(2))
    assert first < second
    engine.dispose()


@postgresql_only
def test_postgresql_keeps_the_plans_of_what_is_asked_again_and_again(database_url: str) -> None:
    engine = make_engine(database_url, at_once=1)
    asked = text("SELECT count(*) FROM users WHERE username = :name")
    for _ in range(20):
        with read_session(engine) as session:
            session.execute(asked, {"name": "eva"})
        with write_session(engine) as session:
            session.execute(asked, {"name": "eva"})
    with read_session(engine) as session:
        kept = session.scalars(text("SELECT statement FROM pg_prepared_statements")).all()
    assert any("FROM users" in statement for statement in kept)
    engine.dispose()


def _cut(engine: Engine, other: Engine) -> None:
    """Ends the engine's one connection at the server, as a server that starts again does."""
    with engine.connect() as connection:
        number = connection.scalar(text("SELECT pg_backend_pid()"))
    with other.begin() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})


@postgresql_only
@pytest.mark.parametrize("has_rested", [True, False])
def test_a_connection_that_was_cut_while_it_rested_is_noticed_by_nobody(
    database_url: str, engine: Engine, has_rested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "RESTED_SECONDS", 0.0 if has_rested else 1e9)
    own = make_engine(database_url, at_once=1)
    _cut(own, engine)
    if not has_rested:
        with pytest.raises(OperationalError), read_session(own) as session:
            session.execute(text("SELECT 1"))
    for open_session in (read_session, write_session):
        with open_session(own) as session:
            assert session.scalar(text("SELECT 1")) == 1
    own.dispose()


@postgresql_only
def test_a_person_is_waited_for_once_in_a_transaction(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = factory.user(), factory.user()
    asked: list[object] = []
    with write_session(factory.engine) as session:
        real = db.connection_of(session).execute
        monkeypatch.setattr(
            db.connection_of(session),
            "execute",
            lambda *given: asked.append(given[1]) or real(*given),
        )
        for user in (one, one, other, one):
            slots.one_at_a_time(session, user)
        with session.begin_nested():
            slots.one_at_a_time(session, one)
    assert [given["user"] for given in asked] == [one.id, other.id, one.id, one.id]
