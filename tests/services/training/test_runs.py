"""Training runs: queued once with a whole configuration, and their numbers kept."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound, SnapshotEmpty
from app.events.types import Done, Evaluated, PhaseReached, StepTaken
from app.models import AuditEntry, Counts, JobKind, JobState, Project, Snapshot, TrainingRun, User
from app.services.jobs import jobs
from app.services.training import runs
from app.storage import Storage
from tests.factory import Factory

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.judged(8)


@pytest.fixture
def snapshot(factory: Factory, project: Project) -> Snapshot:
    return factory.snapshot(project)


@pytest.fixture
def run(engine: Engine, snapshot: Snapshot, engineer: User) -> TrainingRun:
    with write_session(engine) as session:
        return runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(engineer)
        )


def test_new_run_is_a_queued_job_with_its_whole_configuration(
    snapshot: Snapshot, session: Session, engineer: User
) -> None:
    run = runs.create(session, snapshot=snapshot, base_model="tiny", config={"beta": 0.2}, by=engineer, note="first")
    assert (run.job.kind, run.job.state, run.job.project_id) == (
        JobKind.TRAINING,
        JobState.QUEUED,
        snapshot.project_id,
    )
    assert (run.config["beta"], run.config["seed"], run.note, run.metrics) == (0.2, 42, "first", {})
    (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.target == f"job {run.job_id}"))
    assert (entry.action, entry.detail) == ("job.create", {"snapshot": snapshot.id, "base_model": "tiny"})


def test_same_key_makes_one_run_and_refuses_another_request(
    snapshot: Snapshot, session: Session, engineer: User
) -> None:
    wanted = {"snapshot": snapshot, "base_model": "tiny", "by": engineer, "idempotency_key": "k"}
    first, again = runs.create(session, config={}, **wanted), runs.create(session, config={}, **wanted)
    assert first.job_id == again.job_id
    with pytest.raises(Conflict, match="another request"):
        runs.create(session, config={"beta": 0.5}, **wanted)


def test_double_click_on_train_makes_one_snapshot_and_one_run(
    engine: Engine, project: Project, engineer: User, storage: Storage
) -> None:
    def click(_: int) -> tuple[int, int]:
        run = runs.train_on_current(
            engine,
            project=project,
            by_id=engineer.id,
            base_model="tiny",
            config={},
            storage=storage,
            idempotency_key="form-1",
        )
        return run.job_id, run.snapshot_id

    with ThreadPoolExecutor(4) as clicks:
        assert len(set(clicks.map(click, range(4)))) == 1


@pytest.mark.parametrize("name", ["../etc", "/models/x", "a b", "", "x" * 80])
def test_base_model_is_a_plain_name(snapshot: Snapshot, session: Session, engineer: User, name: str) -> None:
    with pytest.raises(Invalid, match="base model"):
        runs.create(session, snapshot=snapshot, base_model=name, config={}, by=engineer)


def test_snapshot_without_pairs_trains_nothing(session: Session, factory: Factory, engineer: User) -> None:
    empty = Snapshot(id=77, project_id=1, number=3, counts=Counts(0, 0, 0, 0, 0, {}))
    with pytest.raises(SnapshotEmpty, match="Snapshot 3 has no pairs"):
        runs.create(session, snapshot=empty, base_model="tiny", config={}, by=engineer)


def test_job_of_another_kind_is_not_a_run(session: Session, project: Project, engineer: User) -> None:
    export, _ = jobs.queue(session, kind=JobKind.EXPORT, project_id=project.id, by=engineer)
    with pytest.raises(NotFound, match=f"no run {export.id}"):
        runs.get(session, export.id)
    assert runs.of_jobs(session, job_ids=[export.id]) == {}


def test_runs_are_listed_by_project_snapshot_and_state(
    engine: Engine, run: TrainingRun, snapshot: Snapshot, factory: Factory
) -> None:
    other = factory.snapshot(factory.judged(4))
    with write_session(engine) as session:
        second = runs.create(session, snapshot=session.merge(other), base_model="tiny", config={}, by=None)
    with read_session(engine) as session:
        assert [one.job_id for one in runs.listing(session).items] == [second.job_id, run.job_id]
        assert [one.job_id for one in runs.listing(session, snapshot=snapshot).items] == [run.job_id]
        assert [one.job_id for one in runs.listing(session, project=second.job.project).items] == [second.job_id]
        assert runs.listing(session, state=JobState.RUNNING).total == 0


def test_newest_numbers_are_kept_and_the_first_evaluation_is_the_one_before(engine: Engine, run: TrainingRun) -> None:
    with write_session(engine) as session:
        runs.record(
            session,
            job_id=run.job_id,
            printed=[
                PhaseReached(stage="training"),
                Evaluated(step=0, more={"eval_loss": 0.69}),
                StepTaken(step=1, time=1.0, more={"loss": 0.7, "rewards/margins": None}),
            ],
        )
    with write_session(engine) as session:
        runs.record(
            session,
            job_id=run.job_id,
            printed=[Evaluated(step=1, more={"eval_loss": 0.5}), Done(step=1, more={"step": 1})],
        )
        runs.record_end(session, job_id=run.job_id, numbers={"train_seconds": 2.5})
    with read_session(engine) as session:
        assert runs.get(session, run.job_id).metrics == {
            "before": {"eval_loss": 0.69},
            "after": {"eval_loss": 0.5},
            "step": {"loss": 0.7},
            "done": {"step": 1, "train_seconds": 2.5},
        }


def test_a_model_that_is_not_here_is_refused_before_anything_is_frozen_or_queued(
    engine: Engine, settings: Settings, storage: Storage, factory: Factory, tiny: str
) -> None:
    project, by = factory.judged(4), factory.engineer()
    with pytest.raises(Invalid, match=r"no base model named 'elsewhere'.*tiny"):
        runs.train_on_current(engine, project=project, by_id=by.id, base_model="elsewhere", config={}, storage=storage)
    with read_session(engine) as session:
        assert session.scalars(select(TrainingRun)).all() == []
        assert session.scalars(select(Snapshot)).all() == []
    runs.require_model(settings, tiny)
