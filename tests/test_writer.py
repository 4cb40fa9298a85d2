"""SQLite's writer: who came first writes first, and what was written is on the disk before anybody is told."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app import db
from app.db import read_session, write_session
from app.models import User
from app.writer import FairLock
from tests.factory import Factory

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def waiting(lock: FairLock, count: int) -> None:
    while len(lock._waiting) < count:
        threading.Event().wait(0.001)


def test_lock_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    lock, order = FairLock(), list[int]()

    def take(number: int) -> None:
        assert lock.acquire(60)
        order.append(number)
        lock.release()

    assert lock.acquire(0)
    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        waiting(lock, number)
    lock.release()
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert lock.acquire(0)


def test_who_gives_up_waiting_is_passed_over() -> None:
    lock = FairLock()
    assert lock.acquire(0)
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0)


@sqlite_only
def test_writers_of_one_process_write_in_the_order_in_which_they_came(engine: Engine) -> None:
    order: list[int] = []
    began = [threading.Event() for _ in range(6)]

    def write(number: int) -> None:
        with write_session(engine) as session:
            began[number].set()
            session.execute(text("SELECT 1"))
            order.append(number)

    with write_session(engine) as session:
        session.execute(text("SELECT 1"))
        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread, event_ in zip(threads, began, strict=True):
            thread.start()
            event_.wait()
            threading.Event().wait(0.02)  # it asks for the lock right after
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(6))


@sqlite_only
def test_work_that_fails_or_waits_in_vain_leaves_the_writer_to_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.01)
    with pytest.raises(OperationalError), write_session(engine) as session:
        session.execute(text("UPDATE nothing SET at_all = 1"))
    with write_session(engine) as first:
        first.execute(text("SELECT 1"))
        with read_session(engine) as reader:
            assert reader.scalar(text("SELECT 1")) == 1
        with pytest.raises(OperationalError), write_session(engine) as second:
            second.execute(text("SELECT 1"))
    with write_session(engine) as third:
        assert third.scalar(text("SELECT 1")) == 1


@sqlite_only
def test_judgment_is_on_the_disk_before_it_is_acknowledged(
    engine: Engine, client: TestClient, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    project, user = factory.project(), factory.user()
    factory.comparison(project)
    header = api(user)
    shown = client.post(f"/api/v1/projects/{project.slug}/next", headers=header).json()
    pragmas: list[tuple[object, ...]] = []

    def look(connection: object) -> None:
        cursor = connection.connection.cursor()  # type: ignore[attr-defined]
        names = ("synchronous", "fullfsync", "checkpoint_fullfsync")
        pragmas.append(tuple(cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in names))
        cursor.close()

    event.listen(Engine, "commit", look)
    try:
        reply = client.post("/api/v1/judgments", headers=header, json={"token": shown["token"], "choice": "left"})
    finally:
        event.remove(Engine, "commit", look)
    assert reply.status_code < 300, reply.text
    full = 2
    assert pragmas and set(pragmas) == {(full, 1, 1)}
