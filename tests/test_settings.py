"""Settings that can't work are refused in words before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.db import get_engine, read_session
from app.ops import migrate, startup
from app.storage import get_storage
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "written", ["postgres://u:p@host/x", "postgresql://u:p@host/x", "postgresql+psycopg://u:p@host/x"]
)
def test_every_spelling_of_postgresql_is_one_driver(written: str) -> None:
    """Case 160."""
    assert Settings(database_url=written).database == "postgresql+psycopg://u:p@host/x"


@pytest.mark.parametrize("written", ["mysql://u:p@host/x", "oracle://x", "not an address", "http://host/x"])
def test_a_database_that_prefloop_does_not_know_is_refused_with_those_that_it_does(written: str) -> None:
    with pytest.raises(ValidationError, match="postgresql://user:password@host/name"):
        Settings(database_url=written)


@pytest.mark.parametrize("name", ["x?y", "a#b", "50%41", "a::b", "with space", "x?mode=memory&cache=shared", "Ω"])
def test_everything_lands_in_the_data_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    """Case 164."""
    folder = tmp_path / name
    settings = Settings(data_dir=folder, database_url="", storage_url="")
    engine = get_engine(settings)
    migrate.upgrade(engine)
    with read_session(engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM users").scalar() == 0
    engine.dispose()
    get_storage(settings).put_bytes("snapshots/one", b"kept")
    assert (folder / "prefloop.db").is_file()
    assert (folder / "artifacts" / "snapshots" / "one").read_bytes() == b"kept"
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("broker_url", "amqp://host", "A broker is Redis"),
        ("redis_url", "host:6379", "A broker is Redis"),
        ("log_level", "loud", "DEBUG, INFO, WARNING, ERROR"),
        ("train_launcher", "accelerate 'launch", "can't be read as a command"),
        ("heartbeat_seconds", 40, "PREFLOOP_WORKER_LEASE_SECONDS"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(**{name: value})


@pytest.mark.parametrize("command", ["serve", "worker", "up"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"PREFLOOP_DATABASE_URL": "mysql://x"}, "PREFLOOP_DATABASE_URL: Prefloop doesn't work with mysql."),
        ({"PREFLOOP_STORAGE_URL": "nowhere://bucket"}, "PREFLOOP_STORAGE_URL can't be used"),
        ({"PREFLOOP_DATA_DIR": "/proc/nowhere"}, "Can't use the data folder /proc/nowhere"),
    ],
)
def test_a_command_that_runs_long_says_what_is_wrong_at_its_start(
    tmp_path: Path, command: str, more: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", command],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PREFLOOP_DATA_DIR": str(tmp_path), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_key_of_the_data_folder_that_was_emptied_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("")
    with pytest.raises(startup.CannotStart, match="shorter than 32 characters"):
        startup.check(Settings(data_dir=tmp_path))
