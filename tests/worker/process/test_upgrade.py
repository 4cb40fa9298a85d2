"""A data folder of the first release, opened by this version: what ran then goes on now.

`interrupted/0001.tar.gz` holds one whose second run was cut off in the middle; `make_0001.py` beside it made it.
"""

import tarfile
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import JobState
from app.ops import migrate
from app.services.jobs import leases
from app.services.training import checkpoints
from app.storage import Storage
from tests.worker.running import Watcher, Workers, saved_steps

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("database_url", ["of the first release"], indirect=True),
]
FINISHED, CUT_OFF = 1, 2
# What a worker of the first release says to its database, as its services had it.
OLD_CLAIM = (
    "UPDATE jobs SET state = 'running', worker = 'old', lease_token = 't', attempts = attempts + 1,"
    " lease_until = '2026-11-26 04:41:33+00:00', stage = 'starting' WHERE id = {job} AND state = 'queued'"
)
OLD_BEAT = "UPDATE workers SET heartbeat_at = started_at, job_id = {job} WHERE name = 'old'"
OLD_HOLD = "SELECT id, snapshot_id, base_model, stage FROM jobs WHERE id = {job} AND lease_token = '{token}'"
OLD_FAILURE = "UPDATE jobs SET state = 'failed', finished_at = created_at WHERE id = {job} AND lease_token = '{token}'"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The archive's database, in the data folder that `settings` name, with the archive's files around it."""
    with tarfile.open(Path(__file__).parent / "interrupted" / "0001.tar.gz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return f"sqlite:///{tmp_path / 'data' / 'prefloop.db'}"


@pytest.fixture
def token(engine: Engine) -> str:
    """The lease token that the old worker holds; the database is upgraded while it does."""
    with engine.connect() as connection:
        token = connection.execute(text(f"SELECT lease_token FROM jobs WHERE id = {CUT_OFF}")).scalar_one()
    migrate.upgrade(engine)
    return str(token)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {"HEARTBEAT_SECONDS": "0.5", "SWEEP_SECONDS": "0.5", "WORKER_LEASE_SECONDS": "6"}.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


def test_run_that_was_cut_off_resumes_from_its_training_state(
    engine: Engine, settings: Settings, storage: Storage, token: str, workers: Workers, watcher: Watcher
) -> None:
    before = watcher.job(CUT_OFF)
    assert (before.state, before.worker, before.phase) == (JobState.RUNNING, "old", "training")
    (state,) = saved_steps(settings, CUT_OFF)
    assert 0 < state <= before.step < 60
    workers.start("new")
    ended = watcher.until_over(CUT_OFF)
    assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{workers.logs()}"
    assert (ended.worker, ended.attempts) == ("new", 1)  # it got further than before: its attempts count anew
    assert watcher.states(CUT_OFF) == ["queued", "running", "queued", "running", "succeeded"]
    assert f"Resumed after step {state}." in [row.data.get("message") for row in watcher.events(CUT_OFF, "log")]
    assert [row.step for row in watcher.events(CUT_OFF, "step")] == list(range(1, 61))
    with read_session(engine) as session:
        newest, oldest = checkpoints.listing(session).items
    assert (newest.job_id, newest.step, oldest.job_id) == (CUT_OFF, 60, FINISHED)
    for file in newest.files + oldest.files:
        assert storage.size(file.key) == file.size
    watcher.until_gone(settings.data_dir / "work" / f"job-{CUT_OFF}")


def test_worker_of_the_first_release_takes_no_job_and_spoils_none(engine: Engine, token: str) -> None:
    """Its claim, its heartbeat and its progress fail; its last word on a job finds no row."""
    for statement in (OLD_CLAIM, OLD_BEAT, OLD_HOLD):
        with pytest.raises(DatabaseError, match="no such column"), engine.begin() as connection:
            connection.execute(text(statement.format(job=CUT_OFF, token=token)))
    with engine.begin() as connection:
        assert connection.execute(text(OLD_FAILURE.format(job=CUT_OFF, token=token))).rowcount == 0
    with write_session(engine) as session:
        (lost,) = leases.sweep(session, attempts=3)
    assert (lost.job_id, lost.state) == (CUT_OFF, JobState.QUEUED)
