"""Backup and restore of a filled installation, on both databases, while people work."""

import json
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings, get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Conflict, Invalid, Unavailable
from app.models import ApiToken, AuditEntry, Job, Judgment, User, UserSession
from app.ops import backup, databases, restore
from app.services.accounts import links, passkeys, second_factor, sessions, tokens, users
from app.storage import get_storage
from tests.authenticator import add_passkey
from tests.factory import Factory
from tests.ops.filled import rows_of
from tests.services.training.exported import exported
from tests.services.training.trained import trained

ENDED = {"sessions", "links", "api_tokens", "passkeys", "login_attempts", "workers", "audit_entries"}


@pytest.fixture
def filled(engine: Engine, settings: Settings, factory: Factory) -> Engine:
    """People, judgments, a snapshot, a run with its checkpoint and an export, a base model, open sessions."""
    project, engineer = factory.judged(12, slug="tone"), factory.engineer()
    _, checkpoint = trained(engine, settings, project, engineer)
    exported(engine, settings, checkpoint, engineer)
    ada = factory.user(username="ada", password="correct horse battery")
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        sessions.start(session, user=user)
        tokens.create(session, user=user, name="script")
        second_factor.begin(session, user=user)
    add_passkey(engine, settings, user)
    return engine


@pytest.fixture
def elsewhere(tmp_path: Path, settings: Settings) -> Iterator[Settings]:
    """An empty installation of the same kind."""
    empty = settings.model_copy(update={"data_dir": tmp_path / "elsewhere", "database_url": "", "secret_key": ""})
    if settings.is_sqlite:
        yield empty
        return
    name = f"restored_{secrets.token_hex(6)}"
    maintenance = create_engine(settings.database, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield empty.model_copy(update={"database_url": settings.database.rpartition("/")[0] + f"/{name}"})
    with maintenance.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    maintenance.dispose()


def fresh(settings: Settings) -> Settings:
    settings.__dict__.pop("secret", None)
    return settings


def test_everything_comes_back_but_what_lets_people_in(
    filled: Engine, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    before = rows_of(filled)
    told: list[str] = []
    contents = backup.make(settings, tmp_path / "kept", report=told.append)
    assert told and (tmp_path / "kept").is_dir() and not list(tmp_path.glob(".kept*"))
    assert backup.verify(tmp_path / "kept") == contents
    assert [model["name"] for model in contents.models] == ["tiny"]
    assert stat.S_IMODE((tmp_path / "kept" / "secret_key").stat().st_mode) == 0o600
    assert rows_of(filled) == before, "a backup changes nothing"

    restore.restore(fresh(elsewhere), tmp_path / "kept")
    back = get_engine(elsewhere)
    after = rows_of(back)
    assert {name: rows for name, rows in after.items() if name not in ENDED} == {
        name: rows for name, rows in before.items() if name not in ENDED
    }
    assert len(before["api_tokens"]) and all(row["revoked_at"] for row in after["api_tokens"])
    assert len(before["sessions"]) and all(row["revoked_at"] for row in after["sessions"])
    assert [row | {"alone": False} for row in before["passkeys"]] == after["passkeys"] and len(after["passkeys"]) == 1
    assert fresh(elsewhere).secret == settings.secret
    store = get_storage(elsewhere)
    for row in before["checkpoint_files"]:
        assert store.size(row["key"]) == row["size"]
    with read_session(back) as session:
        assert (
            session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first().action == "installation.restore"
        )
    back.dispose()


def test_used_links_and_revoked_tokens_stay_dead(
    engine: Engine, settings: Settings, factory: Factory, elsewhere: Settings, tmp_path: Path
) -> None:
    """The backup is older than the day on which they were used and revoked."""
    ada = factory.user(username="ada")
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        link = links.create_sign_in(session, user=user, settings=settings)
        row, token = tokens.create(session, user=user, name="script", settings=settings)
        cookie = sessions.start(session, user=user, settings=settings)
    backup.make(settings, tmp_path / "kept")
    with write_session(engine) as session:
        links.use(session, token=link, settings=settings)
        tokens.revoke(session, token_id=row.id, by=None)
    restore.restore(fresh(elsewhere), tmp_path / "kept")
    back = get_engine(elsewhere)
    with read_session(back) as session:
        assert tokens.find(session, token=token, settings=elsewhere) is None
        assert sessions.find(session, token=cookie, settings=elsewhere) is None
        with pytest.raises(Exception, match="replaced by a newer one, or withdrawn"):
            links.find(session, token=link, settings=elsewhere)
    with write_session(back) as session:
        again = links.create_sign_in(session, user=users.get(session, "ada"), settings=elsewhere)
        assert links.use(session, token=again, settings=elsewhere).username == "ada"
    back.dispose()


def test_tokens_can_be_kept_for_a_move(
    engine: Engine, settings: Settings, factory: Factory, elsewhere: Settings, tmp_path: Path
) -> None:
    admin = factory.admin()
    with write_session(engine) as session:
        _, token = tokens.create(session, user=session.get_one(User, admin.id), name="script", settings=settings)
    add_passkey(engine, settings, admin)
    backup.make(settings, tmp_path / "kept")
    restore.restore(fresh(elsewhere), tmp_path / "kept", keep_tokens=True)
    back = get_engine(elsewhere)
    with read_session(back) as session:
        assert tokens.find(session, token=token, settings=fresh(elsewhere)) is not None
        assert [row.alone for row in passkeys.listing(session, user=admin)] == [True]
    back.dispose()


def test_a_backup_is_of_one_moment_while_people_judge(
    engine: Engine, settings: Settings, factory: Factory, tmp_path: Path
) -> None:
    project = factory.project(slug="tone")
    factory.comparisons(project, 60)
    evaluator, stop, made = factory.user(), threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set() and factory.judge(project, evaluator):
            made.set()

    person = threading.Thread(target=work)
    person.start()
    try:
        assert made.wait(30)
        for number in range(3):
            backup.make(settings, tmp_path / f"kept-{number}")
    finally:
        stop.set()
        person.join()
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Judgment)) > 0


def test_a_backup_goes_nowhere_where_something_is(filled: Engine, settings: Settings, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("x")
    with pytest.raises(Conflict, match="is there already"):
        backup.make(settings, taken)
    with pytest.raises(Invalid, match="in the data folder"):
        backup.make(settings, settings.data_dir / "kept")
    assert [path.name for path in taken.iterdir()] == ["mine"]


def test_a_stored_file_that_was_damaged_or_lost_makes_no_backup(
    filled: Engine, settings: Settings, tmp_path: Path
) -> None:
    key = rows_of(filled)["checkpoint_files"][0]["key"]
    path = settings.data_dir / "artifacts" / key
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(Unavailable, match="isn't what was stored"):
        backup.make(settings, tmp_path / "kept")
    path.unlink()
    with pytest.raises(Exception, match=r"has no file|no file"):
        backup.make(settings, tmp_path / "kept")
    assert not (tmp_path / "kept").exists() and not list(tmp_path.glob(".kept*"))


def test_what_changed_since_is_never_restored(
    filled: Engine, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    contents = backup.make(settings, kept)
    for file in (contents.files[0].path, contents.files[1].path, "secret_key"):
        content = (kept / file).read_bytes()
        (kept / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Invalid, match="missing or has changed"):
            restore.restore(fresh(elsewhere), kept)
        (kept / file).write_bytes(content)
    facts = json.loads((kept / backup.MANIFEST).read_text())
    for broken, words in (
        ({"files": [{"path": "../../etc/passwd", "size": 1, "sha256": "x"}]}, "leads out of"),
        ({"form": 99}, "newer Prefloop"),
        ({"revision": "9999"}, "doesn't know"),
        ({"database": "postgresql" if settings.is_sqlite else "sqlite"}, "PREFLOOP_DATABASE_URL leads to"),
    ):
        (kept / backup.MANIFEST).write_text(json.dumps(facts | broken))
        with pytest.raises(Invalid, match=words):
            restore.restore(fresh(elsewhere), kept)
    (kept / backup.MANIFEST).write_text("{")
    with pytest.raises(Invalid, match="can't be read"):
        restore.restore(fresh(elsewhere), kept)
    shutil.rmtree(kept / "artifacts")
    (kept / backup.MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(Invalid, match="missing or has changed"):
        restore.restore(fresh(elsewhere), kept)
    assert databases.is_empty(elsewhere)
    assert not (elsewhere.data_dir / "artifacts").exists() or not any((elsewhere.data_dir / "artifacts").rglob("*.*"))


def test_an_installation_that_is_not_empty_is_left_alone(
    filled: Engine, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    backup.make(settings, tmp_path / "kept")
    before = rows_of(filled)
    with pytest.raises(Conflict, match="has a database already"):
        restore.restore(settings, tmp_path / "kept")
    assert rows_of(filled) == before
    other = elsewhere.model_copy(update={"secret_key": "another-secret-" * 4})
    with pytest.raises(Conflict, match="isn't the key of the backup"):
        restore.restore(fresh(other), tmp_path / "kept")
    assert databases.is_empty(elsewhere)
    get_storage(elsewhere).put_bytes(rows_of(filled)["checkpoint_files"][0]["key"], b"somebody else's")
    with pytest.raises(Conflict, match="artifact store holds"):
        restore.restore(fresh(elsewhere), tmp_path / "kept")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_the_command_line(
    filled: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(cli, ["backup", str(tmp_path / "kept")])
    assert done.exit_code == 0, done.output
    assert "keep it safe" in done.output and "Base models aren't in it: tiny" in done.output
    monkeypatch.setenv("PREFLOOP_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("PREFLOOP_DATABASE_URL")
    monkeypatch.delenv("PREFLOOP_SECRET_KEY")
    get_settings.cache_clear()
    done = CliRunner().invoke(cli, ["restore", str(tmp_path / "kept")])
    assert done.exit_code == 0, done.output
    assert "is back" in done.output and "prefloop models add tiny" in done.output
    back = get_engine(get_settings())
    assert set(inspect(back).get_table_names()) == set(inspect(filled).get_table_names())
    with read_session(back) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 2
        assert session.scalar(select(func.count()).where(ApiToken.revoked_at.is_(None))) == 0
        assert session.scalar(select(func.count()).where(UserSession.revoked_at.is_(None))) == 0
    back.dispose()


def test_programs_of_postgresql_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(databases, "PLACES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="pg_dump isn't here"):
        databases._program("pg_dump")
