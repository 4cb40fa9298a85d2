"""A run whose engine and worker are killed again and again: it ends with the weights of one that nobody disturbed."""

import os
import random
import signal

import pytest
from sqlalchemy import Engine

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import FINISHED, Job, JobState, Snapshot
from app.services.jobs import jobs
from app.services.training import checkpoints
from tests.factory import Factory
from tests.worker.running import ENDLESS, Watcher, Workers, is_alive, queue_job, training_pid

ROUNDS = 20
STEPS = 1_500
CONFIG = ENDLESS | {"max_steps": STEPS, "batch_size": 4, "threads": 1, "seed": 7, "dtype": "float32"}
pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture
def settings(settings: Settings, tiny_models: object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    quick = {"HEARTBEAT_SECONDS": "0.5", "SWEEP_SECONDS": "0.5", "WORKER_LEASE_SECONDS": "3"}
    for name, value in (quick | {"MODELS_DIR": str(tiny_models)}).items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def snapshot(factory: Factory) -> Snapshot:
    return factory.snapshot(factory.judged(16, eval_percent=25))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_run_killed_twenty_times_ends_with_the_weights_of_an_undisturbed_one(
    engine: Engine, settings: Settings, factory: Factory, snapshot: Snapshot, workers: Workers, watcher: Watcher
) -> None:
    engineer, chance = factory.engineer(), random.Random(20)
    worker = workers.start("worker-0")
    quiet = watcher.until_over(queue_job(engine, snapshot, engineer, **CONFIG).id, patience=600)
    assert quiet.state is JobState.SUCCEEDED, quiet.error
    job = queue_job(engine, snapshot, engineer, **CONFIG)
    for number in range(1, ROUNDS + 1):
        watcher.until(f"round {number} has its engine", lambda: living(settings, job.id) is not None)
        # In some rounds while it loads, in others after some steps.
        wanted = watcher.job(job.id).step + chance.choice([0, 1, 10])
        watcher.until(f"round {number} got so far", lambda wanted=wanted: reached(watcher.job(job.id), wanted))
        assert watcher.job(job.id).state is JobState.RUNNING, f"{watcher.job(job.id).error}\n{workers.logs()}"
        engine_process = living(settings, job.id)
        assert engine_process is not None, "its process ended by itself: more steps are needed"
        if number % 2:
            os.kill(engine_process, signal.SIGKILL)
            killed = watcher.until_over(job.id)
            assert killed.state is JobState.FAILED and killed.error_code in ("killed", "out_of_memory"), killed.error
            with write_session(engine) as session:
                jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
        else:
            worker.kill()
            worker.wait()
            worker = workers.start(f"worker-{number}")
            watcher.until("the orphan ended", lambda pid=engine_process: not is_alive(pid))
            watcher.until("the job was taken back", lambda n=number: watcher.job(job.id).worker == f"worker-{n}")
    ended = watcher.until_over(job.id, patience=600)
    assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{workers.logs()}"
    assert [row.step for row in watcher.events(job.id, "step")] == list(range(1, STEPS + 1))
    assert weights(engine, job.id) == weights(engine, quiet.id)


def reached(job: Job, step: int) -> bool:
    return job.step >= step or job.state in FINISHED


def living(settings: Settings, job_id: int) -> int | None:
    """The engine's process, None before it is started: an earlier attempt's number stands in the lock until then."""
    try:
        pid = training_pid(settings, job_id)
    except (FileNotFoundError, ValueError):
        return None
    return pid if is_alive(pid) else None


def weights(engine: Engine, job_id: int) -> dict[str, str]:
    """SHA-256 of each file of weights that the run left, by name."""
    with read_session(engine) as session:
        published = [one for one in checkpoints.listing(session).items if one.job_id == job_id]
        hashes = {
            f"{one.name}/{file.name}": file.sha256
            for one in published
            for file in one.files
            if file.name.endswith(".safetensors")
        }
    assert hashes
    return hashes
