"""A full disk is called that, wherever it is noticed."""

import errno
import sqlite3
from collections.abc import Callable
from io import BytesIO
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app import cli
from app.config import Settings
from app.db import read_session, write_session
from app.errors import DiskFull, Unavailable, disk_full
from app.models import Import, Project, User
from app.services.collecting.imports import load
from app.storage import Storage, get_storage
from tests.factory import Factory

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full")),
        OperationalError("INSERT", None, psycopg.errors.DiskFull("could not extend file")),
    ],
)
def test_every_way_to_say_that_a_disk_is_full(error: Exception) -> None:
    assert isinstance(disk_full(error), DiskFull)
    wrapped = RuntimeError("while it was stored")
    wrapped.__cause__ = error
    assert isinstance(disk_full(wrapped), DiskFull)


def test_what_a_full_disk_is_not() -> None:
    assert disk_full(OperationalError("INSERT", None, sqlite3.OperationalError("database is locked"))) is None
    circle = ValueError("one")
    circle.__context__ = ValueError("two")
    circle.__context__.__context__ = circle
    assert disk_full(circle) is None


def add_much(engine: Engine, project: Project, user: User) -> None:
    with write_session(engine) as session:
        session.add(Import(project_id=project.id, user_id=user.id, filename="x", error="x" * 2_000_000))


def fill(engine: Engine) -> None:
    """From now on the database has as many pages as it may have: what SQLite says then is what it says on a full disk."""

    def limit(connection: Any, _record: object, _proxy: object) -> None:
        cursor = connection.cursor()
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "checkout", limit)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_page_the_api_and_the_command_line_say_that_the_disk_is_full(
    client: TestClient,
    factory: Factory,
    sign_in: Callable[[User], TestClient],
    api: Callable[[User], dict[str, str]],
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Case 171."""
    project, engineer = factory.project(), factory.engineer()
    sign_in(engineer)
    token = api(engineer)
    fill(engine)
    text = "A long guideline. " * 5000
    page = client.post(f"/projects/{project.slug}/guidelines", data={"text": text}, headers=OWN)
    assert page.status_code == 503
    assert "The database&#39;s disk is full." in page.text and "busy or away" not in page.text
    reply = client.put(f"/api/v1/projects/{project.slug}/guidelines", json={"text": text}, headers=token)
    assert (reply.status_code, reply.json()["code"]) == (503, "disk_full")
    with pytest.raises(OperationalError) as raised:
        add_much(engine, project, engineer)
    assert cli._tell(raised.value) == 1
    assert "disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_import_that_fills_the_disk_says_so(
    engine: Engine, factory: Factory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, engineer = factory.project(), factory.engineer()

    def fails(*_: object) -> None:
        raise OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(load, "_store", fails)
    line = BytesIO(b'{"prompt": "a", "responses": ["b", "c"]}')
    with pytest.raises(OperationalError):
        load.load(engine, project_id=project.id, user_id=engineer.id, stream=line, filename="x", settings=settings)
    with read_session(engine) as session:
        assert session.get_one(Import, 1).error.startswith("The database's disk is full.")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_store_on_a_full_disk_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "_publish", fails)
    with pytest.raises(Unavailable) as raised:
        get_storage(settings).put_bytes("one", b"x")
    assert raised.value.code == "disk_full"
