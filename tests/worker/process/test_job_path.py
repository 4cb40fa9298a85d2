"""The job path with real processes: a worker, its training process, a broker, a database."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app import doorbell
from app.config import Settings, get_settings
from app.db import get_engine, read_session, write_session
from app.models import JobState, Snapshot, User
from app.services.jobs import jobs
from app.services.jobs import workers as worker_list
from app.services.training import checkpoints, parents, runs
from app.storage import Storage
from tests.conftest import ROOT
from tests.factory import Factory
from tests.services_for_tests import free_port, redis_server
from tests.worker.running import (
    ENDLESS,
    QUICK,
    Watcher,
    Workers,
    folder_of,
    is_alive,
    queue_job,
    saved_steps,
    training_pid,
)

pytestmark = pytest.mark.timeout(240)
BOTH_SIZES = [("sqlite", "files"), ("postgresql", "redis")]
both_sizes = pytest.mark.parametrize(("database_url", "broker"), BOTH_SIZES, indirect=True)
# On the laptop's size now, on the server's by `make test-long`; and the other way round.
laptop_first, server_first = (
    pytest.mark.parametrize(
        ("database_url", "broker"), [now, pytest.param(*later, marks=pytest.mark.long)], indirect=True
    )
    for now, later in (BOTH_SIZES, BOTH_SIZES[::-1])
)
embedded = pytest.mark.parametrize(("database_url", "broker"), BOTH_SIZES[:1], indirect=True)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> str:
    if request.param == "redis-away":
        return f"redis://127.0.0.1:{free_port()}/0"
    return request.getfixturevalue("redis_url") if request.param == "redis" else ""


@pytest.fixture
def settings(settings: Settings, broker: str, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Short leases, so that a dead worker is missed within seconds."""
    quick = {
        "BROKER_URL": broker,
        "MODELS_DIR": str(tiny_models),
        "HEARTBEAT_SECONDS": "0.5",
        "SWEEP_SECONDS": "0.5",
        "WORKER_LEASE_SECONDS": "6",
        "CANCEL_GRACE_SECONDS": "20",
    }
    for name, value in quick.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def snapshot(factory: Factory) -> Snapshot:
    return factory.snapshot(factory.judged(16, eval_percent=25))


@server_first
def test_job_runs_to_a_checkpoint_that_peft_loads(
    engine: Engine,
    settings: Settings,
    snapshot: Snapshot,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
    tiny_models: Path,
    tmp_path: Path,
) -> None:
    workers.start()
    with write_session(engine) as session:
        job = runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={"max_steps": 3, "batch_size": 4, "lora_r": 2, "eval_steps": 2},
            by=session.merge(engineer),
        ).job
    job = watcher.until_over(job.id)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    assert watcher.states(job.id) == ["queued", "running", "succeeded"]
    assert [row.step for row in watcher.events(job.id, "step")] == [1, 2, 3]
    assert watcher.run(job.id).metrics["before"]["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    with read_session(engine) as session:
        (checkpoint,) = checkpoints.listing(session).items
    chain = checkpoint.provenance
    assert chain["snapshot"]["sha256"] == snapshot.sha256
    assert chain["started_by"] == engineer.username
    assert chain["project"]["guideline_version"] == 1
    folder = tmp_path / "downloaded"
    for file in checkpoint.files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(storage.read_bytes(file.key))
    assert (
        str(settings.data_dir)
        not in "".join(path.read_text() for path in folder.glob("*.json")) + (folder / "README.md").read_text()
    )

    assert chain["number_type"]["dtype"] in chain["number_type"]["why"] and chain["threads"] == "1"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "/path/to/tiny"
    card = (folder / "README.md").read_text()
    assert "# the folder of the base model tiny\nbase = AutoModelForCausalLM.from_pretrained('/path/to/tiny')" in card

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models / "tiny"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model(**tokenizer("Hello", return_tensors="pt")).logits.shape[-1] == 260
    watcher.until_gone(folder_of(settings, job.id))


@laptop_first
def test_cancelling_a_run_keeps_its_state_and_retry_goes_on_from_it(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS | {"max_steps": 60, "batch_size": 8})
    workers.start()
    watcher.until_training(job.id, 7)
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    cancelled = watcher.until_over(job.id)
    assert cancelled.state is JobState.CANCELLED
    kept = watcher.events(job.id, "state")[-1].data["kept"]
    assert f"step {cancelled.step} is kept" in kept
    with write_session(engine) as session:
        jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    ended = watcher.until_over(job.id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [row.step for row in watcher.events(job.id, "step")] == list(range(1, 61))
    assert watcher.states(job.id) == ["queued", "running", "cancelled", "queued", "running", "succeeded"]


@embedded
def test_killed_training_process_ends_as_failed_with_its_reason(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS)
    worker = workers.start()
    watcher.until_training(job.id, 6)
    os.kill(training_pid(settings, job.id), signal.SIGKILL)
    failed = watcher.until_over(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error_code in ("killed", "out_of_memory")
    error = watcher.events(job.id, "error")[-1].data
    assert "memory" in error["message"]
    kept = re.fullmatch(r"The training state of step (\d+) is kept; Retry goes on from it\.", error["kept"])
    assert kept is not None, error["kept"]
    steps = saved_steps(settings, job.id)
    assert 1 <= len(steps) <= 2 and max(steps) == int(kept[1]), "two states are kept, and the newest is named"
    assert failed.step - 5 <= int(kept[1]) <= failed.step, "a state is saved every 5 steps"
    assert worker.poll() is None, "the worker went with it"


@server_first
def test_job_of_a_killed_worker_goes_on_at_another_without_losing_or_doubling_a_step(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS | {"max_steps": 80, "batch_size": 8})
    first = workers.start("first")
    watcher.until_training(job.id, 12)
    child = training_pid(settings, job.id)
    first.kill()
    first.wait()
    workers.start("second")
    watcher.until("the orphan ended", lambda: not is_alive(child))
    ended = watcher.until_over(job.id)
    assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{workers.logs()}"
    assert (ended.worker, ended.attempts) == ("second", 1)  # it got further than before: its attempts count anew
    assert [row.step for row in watcher.events(job.id, "step")] == list(range(1, 81))
    assert watcher.states(job.id) == ["queued", "running", "queued", "running", "succeeded"]


@embedded
def test_stopped_worker_saves_the_state_and_gives_the_job_back(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS)
    worker = workers.start()
    step = watcher.until_training(job.id, 6).step
    child = training_pid(settings, job.id)
    worker.terminate()
    assert worker.wait(60) == 0
    given_back = watcher.job(job.id)
    assert (given_back.state, given_back.attempts) == (JobState.QUEUED, 0)
    assert "is kept" in watcher.events(job.id, "state")[-1].data["reason"]
    assert not is_alive(child)
    assert max(saved_steps(settings, job.id)) >= step


@embedded
def test_worker_that_slept_through_its_lease_stops_and_writes_nothing(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS | {"max_steps": 400, "batch_size": 8})
    asleep = workers.start("asleep")
    watcher.until_training(job.id, 6)
    os.kill(asleep.pid, signal.SIGSTOP)  # a closed laptop lid
    workers.start("awake")
    watcher.until("the other worker took the job", lambda: watcher.job(job.id).worker == "awake")
    os.kill(asleep.pid, signal.SIGCONT)
    watcher.until("the first worker noticed", lambda: "job.taken_away" in workers.logs())
    ended = watcher.until_over(job.id)
    assert ended.state is JobState.SUCCEEDED, f"{ended.error}\n{workers.logs()}"
    assert ended.worker == "awake"
    assert [row.step for row in watcher.events(job.id, "step")] == list(range(1, 401))


@embedded
def test_job_whose_worker_dies_again_and_again_fails(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer, **ENDLESS)
    for attempt in range(1, settings.job_attempts + 1):
        worker = workers.start(f"worker-{attempt}", PREFLOOP_WORKER_LEASE_SECONDS="2")
        watcher.until("it was claimed", lambda attempt=attempt: watcher.job(job.id).attempts == attempt)
        worker.kill()
        worker.wait()
    workers.start("last")
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "worker_lost")


@both_sizes
def test_lost_doorbell_is_rung_again_by_the_sweeper(
    engine: Engine,
    settings: Settings,
    snapshot: Snapshot,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    tmp_path: Path,
) -> None:
    workers.start()
    watcher.until("the worker is there", lambda: "ready" in workers.logs())
    with read_session(engine) as session:
        (listed,) = worker_list.listing(session, silent_after=settings.worker_lease_seconds)
    assert listed.alive
    assert listed.worker.memory_bytes > 10**8
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "elsewhere", "broker_url": ""})
    job = queue_job(get_engine(elsewhere), snapshot, engineer)  # rings where nobody hears it
    assert watcher.until_over(job.id).state is JobState.SUCCEEDED


@server_first
def test_many_doorbells_and_two_workers_run_each_job_once(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    queued = [queue_job(engine, snapshot, engineer) for _ in range(3)]
    for _ in range(12):
        doorbell.ring(settings)
    workers.start("one")
    workers.start("two")
    for job in queued:
        ended = watcher.until_over(job.id)
        assert ended.state is JobState.SUCCEEDED, ended.error
        assert ended.attempts == 1
        assert watcher.states(job.id) == ["queued", "running", "succeeded"]


@embedded
def test_loss_that_is_not_a_number_ends_as_failed_with_advice(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    wild = {
        "lora_r": 0,
        "learning_rate": 1.0,
        "beta": 100,
        "weight_decay": 10,
        "max_grad_norm": 0,
        "warmup_ratio": 0,
        "lr_scheduler_type": "constant",
        "batch_size": 8,
    }
    job = queue_job(engine, snapshot, engineer, **ENDLESS | wild)
    workers.start()
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "not_finite")
    assert "Lower learning_rate" in failed.error


@embedded
def test_unknown_base_model_ends_as_failed_and_names_what_is_there(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    with write_session(engine) as session:
        job = runs.create(
            session, snapshot=session.merge(snapshot), base_model="absent", config={}, by=session.merge(engineer)
        ).job
    workers.start()
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "not_found")
    assert "tiny" in failed.error


@embedded
def test_damaged_snapshot_is_never_trained_on(
    engine: Engine,
    settings: Settings,
    snapshot: Snapshot,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
) -> None:
    train = next(file for file in snapshot.files if file.name == "train.jsonl")
    storage.put_bytes(train.key, storage.read_bytes(train.key)[:-2] + b" \n")
    job = queue_job(engine, snapshot, engineer)
    workers.start()
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "snapshot_damaged")


@pytest.mark.parametrize(("database_url", "broker"), [("sqlite", "redis-away")], indirect=True)
def test_train_while_the_broker_is_away_stays_queued_and_starts_when_it_is_back(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    workers.start()
    watcher.until("the worker is there", lambda: "worker.started" in workers.logs())
    for _ in ("never there", "gone again"):
        job = queue_job(engine, snapshot, engineer)
        assert watcher.job(job.id).state is JobState.QUEUED
        assert "does not answer" in watcher.events(job.id, "log")[-1].data["message"]
        with redis_server(int(settings.broker_url.rpartition(":")[2].removesuffix("/0"))):
            assert watcher.until_over(job.id).state is JobState.SUCCEEDED
    workers.end()


def fake_engine(how: str) -> str:
    return f"{sys.executable} {ROOT / 'tests' / 'worker' / 'fake_engine.py'} {how}"


@embedded
def test_engine_that_does_not_end_is_killed_with_all_that_it_started(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer)
    workers.start(PREFLOOP_TRAIN_LAUNCHER=fake_engine("never-ends"), PREFLOOP_CANCEL_GRACE_SECONDS="1")
    watcher.until_training(job.id)
    grandchild = int((folder_of(settings, job.id) / "grandchild").read_text())
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    assert watcher.until_over(job.id).state is JobState.CANCELLED
    watcher.until("the grandchild is gone", lambda: not is_alive(grandchild))


@laptop_first
def test_end_without_a_reason_is_told_with_its_last_lines(
    engine: Engine, settings: Settings, snapshot: Snapshot, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    job = queue_job(engine, snapshot, engineer)
    workers.start(PREFLOOP_TRAIN_LAUNCHER=fake_engine("gives-no-reason"))
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "crashed")
    assert "exit code 7" in failed.error
    assert any("something broke" in line for line in watcher.events(job.id, "error")[-1].data["lines"])
    assert [row.data["loss"] for row in watcher.events(job.id, "step")] == [None]
    assert any("not JSON at all" in row.data["message"] for row in watcher.events(job.id, "log"))


@pytest.mark.parametrize(
    ("how", "code", "words"), [("segfaults", "crashed", "SIGSEGV"), ("leaves-nothing", "invalid", "without a whole")]
)
@embedded
def test_crash_and_missing_result_are_told_apart(
    engine: Engine,
    settings: Settings,
    snapshot: Snapshot,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    how: str,
    code: str,
    words: str,
) -> None:
    job = queue_job(engine, snapshot, engineer)
    workers.start(PREFLOOP_TRAIN_LAUNCHER=fake_engine(how))
    failed = watcher.until_over(job.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, code)
    assert words in failed.error


@embedded
@pytest.mark.parametrize("kind", [{"lora_r": 2}, {"lora_r": 0, "learning_rate": 1e-4}], ids=["adapter", "whole"])
def test_a_run_starts_from_a_checkpoint_of_another(
    kind: dict[str, float],
    engine: Engine,
    settings: Settings,
    snapshot: Snapshot,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
) -> None:
    workers.start()
    first = queue_job(engine, snapshot, engineer, **kind)
    assert watcher.until_over(first.id).state is JobState.SUCCEEDED, workers.logs()
    with write_session(engine) as session:
        (start,) = checkpoints.listing(session).items
        second = runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={key: value for key, value in QUICK.items() if key != "lora_r"},
            by=session.merge(engineer),
            parent=parents.find(session, start.id),
        ).job
    job = watcher.until_over(second.id)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    assert watcher.run(second.id).metrics["before"]["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    with read_session(engine) as session:
        made = checkpoints.listing(session).items[0]
    told = {
        name: storage.read_bytes(file.key).decode()
        for name in ("prefloop.json", "README.md")
        for file in made.files
        if file.name == name
    }
    facts = json.loads(told["prefloop.json"])
    assert facts["provenance"]["parent"]["checkpoint"] == start.id
    assert facts["provenance"]["parent"]["weights"] == parents.weights(start)
    assert str(settings.data_dir) not in told["prefloop.json"], "no folder of this machine leaves it"
    assert f"started from checkpoint {start.id} of run {first.id}" in told["README.md"].replace("\\", "")
    assert facts["provenance"]["base_model"]["weights_sha256"] == start.provenance["base_model"]["weights_sha256"]
