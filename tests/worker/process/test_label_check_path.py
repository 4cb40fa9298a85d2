"""The way of a label check with real processes: a run, a worker, the engine's folds, lists of pairs; killed, cancelled, tried again."""

import os
import signal
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, select

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import CheckedPair, Job, JobState, LabelCheck, Project, User
from app.services.jobs import jobs
from app.services.loop.labels import checks, pairs
from app.services.loop.labels.pairs import Listed
from app.services.loop.labels.plan import Plan
from app.services.training import runs
from app.storage import Storage
from tests.factory import Factory
from tests.worker.running import QUICK, Watcher, Workers, folder_of

pytestmark = pytest.mark.timeout(900)
PATIENCE = 400  # seconds that runs may need on a busy machine
PAIRS = 24
one_size = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    quick = {
        "MODELS_DIR": str(tiny_models),
        "HEARTBEAT_SECONDS": "0.2",
        "SWEEP_SECONDS": "0.2",
        "WORKER_LEASE_SECONDS": "2",
        "CANCEL_GRACE_SECONDS": "20",
    }
    for name, value in quick.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def by(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.judged(PAIRS, eval_percent=0)


def trained(engine: Engine, factory: Factory, project: Project, by: User, watcher: Watcher, **config: object) -> int:
    snapshot = factory.snapshot(project)
    with write_session(engine) as session:
        made = runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={**QUICK, "max_steps": 2, "learning_rate": 0.01, **config},
            by=session.merge(by),
        )
    job = watcher.until_over(made.job_id, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{watcher.workers.logs()}"
    return made.job_id


def check(engine: Engine, run_id: int, by: User) -> LabelCheck:
    plan = Plan(folds=2, shares=(0.2, 0.3), plantings=1)
    with write_session(engine) as session:
        return checks.begin(session, run=runs.get(session, run_id), plan=plan, by=session.merge(by))


def ended_well(watcher: Watcher, job_id: int) -> Job:
    job = watcher.until_over(job_id, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{watcher.workers.logs()}"
    return job


@one_size
def test_a_check_that_is_killed_and_cancelled_goes_on_and_lists_pairs_by_models_that_have_not_seen_them(
    engine: Engine,
    settings: Settings,
    factory: Factory,
    project: Project,
    by: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
) -> None:
    first = workers.start("first")
    run_id = trained(engine, factory, project, by, watcher)
    made = check(engine, run_id, by)
    assert check(engine, run_id, by).job_id == made.job_id, "a double click makes one job"
    folder = folder_of(settings, made.job_id)

    def folds() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "folds").glob("*.jsonl")}

    watcher.until("a fold is done", lambda: len(folds()) >= 1)
    os.kill(first.pid, signal.SIGKILL)
    kept = folds()
    workers.start("second")
    watcher.until("a second attempt made another", lambda: len(folds()) > len(kept), PATIENCE)
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, made.job_id), by=session.merge(by))
    assert watcher.until_over(made.job_id, PATIENCE).state is JobState.CANCELLED
    told = [row.data.get("kept", "") for row in watcher.events(made.job_id, "state")]
    assert f"{len(folds())} of 6 parts are kept; Retry goes on with the others." in told[-1]
    before = folds()
    assert {name: before[name] for name in kept} == kept and len(before) < 6
    assert check(engine, run_id, by).job_id == made.job_id, "asked for again it goes on"
    job = ended_well(watcher, made.job_id)
    assert (job.step, job.total_steps) == (600, 600)
    watcher.until_gone(folder)

    with read_session(engine) as session:
        done = checks.get(session, made.job_id)
        listed = {one: pairs.listing(session, check=done, listed=one).items for one in Listed}
        stored = session.scalars(select(CheckedPair)).all()
    rows = {}
    for file in done.files:
        with storage.open(file.key) as lines:
            rows[file.name] = [orjson.loads(line) for line in lines]
    assert list(rows) == ["margins.jsonl", "planted-1.jsonl", "planted-2.jsonl"]
    assert all(len(of) == PAIRS == len({row["comparison_id"] for row in of}) for of in rows.values())
    assert {row["fold"] for row in rows["margins.jsonl"]} == {0, 1}
    assert [sum(row["flipped"] for row in rows[f"planted-{number}.jsonl"]) for number in (1, 2)] == [5, 7]
    result = done.result
    assert result is not None and (result["pairs"], result["left_out"]) == (PAIRS, {})
    assert [one["share"] for one in result["precision"]] == [0.2, 0.3]
    (person,) = result["people"]
    assert person["agreement"]["count"] == PAIRS and 0 < person["agreement"]["low"] < person["agreement"]["high"] < 1
    # The one evaluator chose every chosen answer, so the model foresees them as it foresees the labels.
    assert person["raw"] == pytest.approx(result["agreement"]["value"])
    figures = {row["comparison_id"]: row for row in rows["margins.jsonl"]}
    lowest = sorted(figures, key=lambda number: figures[number]["margin"])[:2]
    contradict = [one.row.comparison_id for one in listed[Listed.CONTRADICT]]
    assert contradict == [number for number in lowest if figures[number]["margin"] < 0]
    highest = sorted(figures, key=lambda number: -figures[number]["ches_normalised"])[:2]
    assert [one.row.comparison_id for one in listed[Listed.LOWER]] == highest
    assert len(stored) == len({*highest, *contradict})
