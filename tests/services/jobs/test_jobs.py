"""Jobs: made once, changed by compare-and-set, kept by whoever holds the lease."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app import events
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import TRANSITIONS, AuditEntry, Job, JobEvent, JobState, Project, Snapshot, User
from app.services.jobs import jobs, leases
from app.services.jobs.leases import LeaseLost
from app.storage import Storage
from tests.factory import Factory

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = 60.0


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
def job(engine: Engine, snapshot: Snapshot, engineer: User) -> Job:
    with write_session(engine) as session:
        return jobs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={},
            by=session.merge(engineer),
            now=NOON,
        )


def states(engine: Engine, job_id: int) -> list[str]:
    with read_session(engine) as session:
        rows = session.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == "state").order_by(JobEvent.id)
        )
        return [row.data["state"] for row in rows if "state" in row.data]


def claim(engine: Engine, worker: str = "w1", now: datetime = NOON) -> Job:
    with write_session(engine) as session:
        job = leases.claim(session, worker=worker, lease_seconds=LEASE, now=now)
    assert job is not None
    return job


def test_new_job_is_queued_with_its_whole_configuration(session: Session, snapshot: Snapshot, engineer: User) -> None:
    job = jobs.create(session, snapshot=snapshot, base_model="tiny", config={"beta": 0.2}, by=engineer)
    assert job.state is JobState.QUEUED
    assert (job.config["beta"], job.config["seed"]) == (0.2, 42)
    assert session.scalars(select(AuditEntry.action).where(AuditEntry.target == f"job {job.id}")).all() == [
        "job.create"
    ]


def test_same_key_makes_one_job_and_refuses_another_request(
    session: Session, snapshot: Snapshot, engineer: User
) -> None:
    first = jobs.create(session, snapshot=snapshot, base_model="tiny", config={}, by=engineer, idempotency_key="k")
    again = jobs.create(session, snapshot=snapshot, base_model="tiny", config={}, by=engineer, idempotency_key="k")
    assert first.id == again.id
    with pytest.raises(Conflict, match="another request"):
        jobs.create(
            session, snapshot=snapshot, base_model="tiny", config={"beta": 0.5}, by=engineer, idempotency_key="k"
        )


def test_keys_of_two_people_do_not_meet(session: Session, snapshot: Snapshot, engineer: User, factory: Factory) -> None:
    one = jobs.create(session, snapshot=snapshot, base_model="tiny", config={}, by=engineer, idempotency_key="k")
    other_user = User(username="other", display_name="Other", role=engineer.role)
    session.add(other_user)
    session.flush()
    other = jobs.create(session, snapshot=snapshot, base_model="tiny", config={}, by=other_user, idempotency_key="k")
    assert one.id != other.id


def test_double_click_on_train_makes_one_snapshot_and_one_job(
    engine: Engine, project: Project, engineer: User, storage: Storage
) -> None:
    def click(_: int) -> tuple[int, int]:
        with write_session(engine) as session:
            job = jobs.train_on_current(
                session,
                project=session.merge(project),
                by=session.merge(engineer),
                base_model="tiny",
                config={},
                storage=storage,
                idempotency_key="form-1",
            )
            return job.id, job.snapshot_id

    with ThreadPoolExecutor(4) as clicks:
        assert len(set(clicks.map(click, range(4)))) == 1


@pytest.mark.parametrize("name", ["../etc", "/models/x", "a b", "", "x" * 80])
def test_base_model_is_a_plain_name(session: Session, snapshot: Snapshot, engineer: User, name: str) -> None:
    with pytest.raises(Invalid, match="base model"):
        jobs.create(session, snapshot=snapshot, base_model=name, config={}, by=engineer)


def test_only_the_transitions_of_the_table_exist(session: Session, job: Job) -> None:
    for source, targets in TRANSITIONS.items():
        for target in set(JobState) - targets:
            with pytest.raises(ValueError, match="no job goes"):
                jobs.move(session, job.id, target, source=source)


def test_racing_workers_claim_each_job_once(engine: Engine, snapshot: Snapshot, engineer: User) -> None:
    with write_session(engine) as session:
        for _ in range(5):
            jobs.create(
                session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(engineer)
            )

    def race(number: int) -> int | None:
        with write_session(engine) as session:
            found = leases.claim(session, worker=f"w{number}", lease_seconds=LEASE)
            return found.id if found else None

    with ThreadPoolExecutor(8) as workers:
        claimed = [found for found in workers.map(race, range(12)) if found]
    assert sorted(claimed) == [1, 2, 3, 4, 5]


def test_oldest_job_is_claimed_first_and_nothing_is_claimed_twice(engine: Engine, job: Job) -> None:
    claimed = claim(engine)
    assert (claimed.id, claimed.state, claimed.attempts, claimed.worker) == (job.id, JobState.RUNNING, 1, "w1")
    with write_session(engine) as session:
        assert leases.claim(session, worker="w2", lease_seconds=LEASE) is None


def test_silent_worker_loses_its_job_and_can_write_nothing_more(engine: Engine, job: Job) -> None:
    token = claim(engine).lease_token or ""
    with write_session(engine) as session:
        assert not leases.heartbeat(
            session, job_id=job.id, token=token, lease_seconds=LEASE, now=NOON + timedelta(seconds=50)
        )
        assert leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=100)) == []
    with write_session(engine) as session:
        (lost,) = leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=111))
    assert (lost.job_id, lost.state) == (job.id, JobState.QUEUED)
    second = claim(engine, "w2", NOON + timedelta(seconds=112))
    late = [
        lambda session: leases.heartbeat(session, job_id=job.id, token=token, lease_seconds=LEASE),
        lambda session: leases.check(session, job_id=job.id, token=token),
        lambda session: leases.progress(
            session, job_id=job.id, token=token, printed=[("step", 1, {"loss": 9.0})], output_bytes=5
        ),
        lambda session: leases.succeed(session, job_id=job.id, token=token),
        lambda session: leases.fail(session, job_id=job.id, token=token, code="x", error="x"),
        lambda session: leases.end_cancelled(session, job_id=job.id, token=token),
        lambda session: leases.give_back(session, job_id=job.id, token=token, reason="x"),
    ]
    for write in late:
        with pytest.raises(LeaseLost), write_session(engine) as session:
            write(session)
    with read_session(engine) as session:
        now = jobs.get(session, job.id)
    assert (now.state, now.worker, now.attempts, now.metrics, now.output_bytes) == (JobState.RUNNING, "w2", 2, {}, 0)
    assert second.lease_token == now.lease_token
    assert states(engine, job.id) == ["queued", "running", "queued", "running"]


def test_job_is_given_up_after_so_many_lost_workers(engine: Engine, job: Job) -> None:
    now = NOON
    for _ in range(3):
        claim(engine, now=now)
        now += timedelta(seconds=LEASE + 1)
        with write_session(engine) as session:
            (lost,) = leases.sweep(session, attempts=3, now=now)
    assert lost.state is JobState.FAILED
    with read_session(engine) as session:
        failed = jobs.get(session, job.id)
        newest = events.last(session, job_id=job.id)
    assert failed.error_code == "worker_lost"
    assert "fell silent 3 times" in failed.error
    assert events.is_end(newest)


def test_cancelled_job_of_a_lost_worker_ends_cancelled(engine: Engine, job: Job, engineer: User) -> None:
    claim(engine)
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer), now=NOON)
        (lost,) = leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=61))
    assert lost.state is JobState.CANCELLED


def test_queued_job_is_cancelled_at_once_and_cancelling_again_changes_nothing(
    engine: Engine, job: Job, engineer: User
) -> None:
    for _ in range(2):
        with write_session(engine) as session:
            assert (
                jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer)).state
                is JobState.CANCELLED
            )
    assert states(engine, job.id) == ["queued", "cancelled"]


def test_running_job_is_asked_to_stop_once(engine: Engine, job: Job, engineer: User) -> None:
    token = claim(engine).lease_token or ""
    for _ in range(2):
        with write_session(engine) as session:
            asked = jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
            assert asked.state is JobState.RUNNING
    with write_session(engine) as session:
        assert leases.check(session, job_id=job.id, token=token)
        assert leases.heartbeat(session, job_id=job.id, token=token, lease_seconds=LEASE)
        leases.end_cancelled(session, job_id=job.id, token=token, kept="The training state of step 5 is kept; …")
    with read_session(engine) as session:
        assert [row.type for row in events.after(session, job_id=job.id)].count("log") == 1
        assert events.last(session, job_id=job.id).data["kept"].startswith("The training state")


def test_job_that_is_over_can_not_be_cancelled_and_only_a_broken_one_is_retried(
    engine: Engine, job: Job, engineer: User
) -> None:
    with write_session(engine) as session, pytest.raises(Conflict, match="is queued"):
        jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    token = claim(engine).lease_token or ""
    with write_session(engine) as session:
        leases.fail(session, job_id=job.id, token=token, code="killed", error="It was killed.", lines=["a", "b"])
    with write_session(engine) as session, pytest.raises(Conflict, match="nothing to cancel"):
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    with write_session(engine) as session:
        again = jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
        assert (again.state, again.error, again.attempts, again.finished_at) == (JobState.QUEUED, "", 0, None)
    token = claim(engine).lease_token or ""
    with write_session(engine) as session:
        leases.succeed(session, job_id=job.id, token=token, numbers={"train_seconds": 2.5})
    with write_session(engine) as session, pytest.raises(Conflict, match="is succeeded"):
        jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
    assert states(engine, job.id) == ["queued", "running", "failed", "queued", "running", "succeeded"]


def test_progress_keeps_events_and_the_newest_numbers_together(engine: Engine, job: Job) -> None:
    token = claim(engine).lease_token or ""
    printed = [
        ("state", None, {"stage": "training", "total_steps": 4}),
        ("eval", 0, {"eval_loss": 0.69}),
        ("step", 1, {"loss": 0.7, "eta_seconds": 9.5, "rewards/margins": None}),
        ("eval", 1, {"eval_loss": 0.5}),
    ]
    with write_session(engine) as session:
        leases.progress(session, job_id=job.id, token=token, printed=printed, output_bytes=321)
    with read_session(engine) as session:
        running = jobs.get(session, job.id)
        kept = events.after(session, job_id=job.id)
    assert (running.stage, running.step, running.total_steps, running.eta_seconds, running.output_bytes) == (
        "training",
        1,
        4,
        9.5,
        321,
    )
    assert running.metrics["before"] == {"eval_loss": 0.69}
    assert running.metrics["after"] == {"eval_loss": 0.5}
    assert [(row.type, row.step) for row in kept[-4:]] == [("state", None), ("eval", 0), ("step", 1), ("eval", 1)]


def test_given_back_job_does_not_count_its_start(engine: Engine, job: Job) -> None:
    token = claim(engine).lease_token or ""
    with write_session(engine) as session:
        leases.give_back(session, job_id=job.id, token=token, reason="Its worker is shutting down.")
    assert claim(engine).attempts == 1


def test_unknown_job_is_not_found(session: Session) -> None:
    for job_id in (0, 999, 2**40):
        with pytest.raises(NotFound):
            jobs.get(session, job_id)


def test_estimate_is_unknown_without_runs_and_scales_with_those_that_were(
    engine: Engine, job: Job, snapshot: Snapshot
) -> None:
    with read_session(engine) as session:
        unknown = jobs.estimate(session, base_model="tiny", config=job.config, pairs=1000)
    assert (unknown.seconds, unknown.memory_bytes, unknown.runs) == (None, None, 0)
    token = claim(engine, "cpu-1").lease_token or ""
    with write_session(engine) as session:
        leases.succeed(
            session,
            job_id=job.id,
            token=token,
            numbers={"peak_memory_bytes": 2_400_000_000},
            now=NOON + timedelta(seconds=80),
        )
    pairs = jobs.train_pairs(snapshot)
    with read_session(engine) as session:
        known = jobs.estimate(session, base_model="tiny", config=job.config | {"num_train_epochs": 2.0}, pairs=pairs)
        other = jobs.estimate(session, base_model="tiny", config=job.config | {"lora_r": 0}, pairs=pairs)
    assert known.seconds == pytest.approx(160)
    assert (known.memory_bytes, known.worker, known.runs) == (2_400_000_000, "cpu-1", 1)
    assert other.runs == 0
