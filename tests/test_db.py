"""Units of work: what is wished for in one is carried out once, after its commit, and never after a rollback."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import after_commit, get_engine, read_session, settings_of, write_session

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
