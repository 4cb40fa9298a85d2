"""Leases: one worker a job, and whoever lost a job writes nothing more."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo

import pytest
from sqlalchemy import Engine

from app.db import read_session, write_session
from app.events import log as events
from app.events.types import Evaluated, PhaseReached, StepTaken
from app.models import Job, JobKind, JobState, User
from app.services.jobs import jobs, leases
from app.services.jobs.leases import LeaseLost
from tests.services.jobs.conftest import LEASE, NOON, Claim, Queue, states


def test_racing_workers_claim_each_job_once(engine: Engine, queue: Queue) -> None:
    queued = [queue(kind).id for kind in (JobKind.TRAINING, JobKind.EXPORT, JobKind.TRAINING) * 2]

    def race(number: int) -> int | None:
        with write_session(engine) as session:
            job = leases.claim(session, worker=f"w{number}", kinds=list(JobKind), lease_seconds=LEASE)
            return job.id if job else None

    with ThreadPoolExecutor(8) as workers:
        claimed = [job_id for job_id in workers.map(race, range(12)) if job_id]
    assert sorted(claimed) == queued


def test_oldest_job_is_claimed_first_and_nothing_is_claimed_twice(engine: Engine, job: Job, claim: Claim) -> None:
    claimed = claim()
    assert (claimed.id, claimed.state, claimed.attempts, claimed.worker) == (job.id, JobState.RUNNING, 1, "w1")
    with write_session(engine) as session:
        assert leases.claim(session, worker="w2", kinds=list(JobKind), lease_seconds=LEASE) is None


def test_worker_takes_only_jobs_of_the_kinds_that_it_can_do(engine: Engine, queue: Queue) -> None:
    export, run = queue(JobKind.EXPORT), queue(JobKind.TRAINING)
    with write_session(engine) as session:
        taken = leases.claim(session, worker="trains", kinds=[JobKind.TRAINING], lease_seconds=LEASE)
        assert taken is not None and taken.id == run.id
        assert leases.claim(session, worker="trains", kinds=[JobKind.TRAINING], lease_seconds=LEASE) is None
        assert leases.claim(session, worker="does nothing", kinds=[], lease_seconds=LEASE) is None
    with read_session(engine) as session:
        assert jobs.get(session, export.id).state is JobState.QUEUED


def test_silent_worker_loses_its_job_and_can_write_nothing_more(engine: Engine, job: Job, claim: Claim) -> None:
    token = claim().lease_token or ""
    with write_session(engine) as session:
        assert not leases.heartbeat(
            session, job_id=job.id, token=token, lease_seconds=LEASE, now=NOON + timedelta(seconds=50)
        )
        assert leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=100)) == []
    with write_session(engine) as session:
        (lost,) = leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=111))
    assert (lost.job_id, lost.state) == (job.id, JobState.QUEUED)
    second = claim("w2", NOON + timedelta(seconds=112))
    late = [
        lambda session: leases.heartbeat(session, job_id=job.id, token=token, lease_seconds=LEASE),
        lambda session: leases.check(session, job_id=job.id, token=token),
        lambda session: leases.progress(
            session, job_id=job.id, token=token, printed=[StepTaken(step=1, more={"loss": 9.0})], output_bytes=5
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
    assert (now.state, now.worker, now.attempts, now.step, now.output_bytes) == (JobState.RUNNING, "w2", 2, 0, 0)
    assert second.lease_token == now.lease_token
    assert states(engine, job.id) == ["queued", "running", "queued", "running"]


def test_job_is_given_up_after_so_many_lost_workers(engine: Engine, job: Job, claim: Claim) -> None:
    now = NOON
    for _ in range(3):
        claim(now=now)
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


def test_cancelled_job_of_a_lost_worker_ends_cancelled(engine: Engine, job: Job, engineer: User, claim: Claim) -> None:
    claim()
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer), now=NOON)
        (lost,) = leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=61))
    assert lost.state is JobState.CANCELLED


def test_progress_keeps_events_and_where_the_job_stands_together(engine: Engine, job: Job, claim: Claim) -> None:
    token = claim().lease_token or ""
    printed = [
        PhaseReached(stage="training", total_steps=4),
        Evaluated(step=0, more={"eval_loss": 0.69}),
        StepTaken(step=1, eta_seconds=9.5, more={"loss": 0.7, "rewards/margins": None}),
    ]
    with write_session(engine) as session:
        leases.progress(session, job_id=job.id, token=token, printed=printed, output_bytes=321)
    with read_session(engine) as session:
        running = jobs.get(session, job.id)
        kept = events.after(session, job_id=job.id)
    assert (running.phase, running.step, running.total_steps, running.eta_seconds, running.output_bytes) == (
        "training",
        1,
        4,
        9.5,
        321,
    )
    assert [(row.type, row.step) for row in kept[-3:]] == [("state", None), ("eval", 0), ("step", 1)]


def test_given_back_job_does_not_count_its_start(engine: Engine, job: Job, claim: Claim) -> None:
    token = claim().lease_token or ""
    with write_session(engine) as session:
        leases.give_back(session, job_id=job.id, token=token, reason="Its worker is shutting down.")
    assert claim().attempts == 1


def test_progress_makes_earlier_attempts_count_no_more(engine: Engine, job: Job, claim: Claim) -> None:
    """A run of days may lose its worker more often than a job that never gets on."""

    def lose(number: int, step: int | None) -> JobState:
        claimed = claim(f"w{number}", NOON + timedelta(hours=number))
        printed = [StepTaken(step=step, total_steps=100)] if step is not None else []
        with write_session(engine) as session:
            leases.progress(
                session, job_id=job.id, token=claimed.lease_token or "", printed=printed, output_bytes=number
            )
        with write_session(engine) as session:
            (lost,) = leases.sweep(session, attempts=3, now=NOON + timedelta(hours=number, minutes=30))
        return lost.state

    assert [lose(number, step) for number, step in enumerate([5, 9, 20, 31, 40])] == [JobState.QUEUED] * 5
    # From here on it never gets beyond step 40.
    assert [lose(number, step) for number, step in enumerate([None, 40], start=5)] == [JobState.QUEUED, JobState.FAILED]


def test_leases_go_by_the_databases_clock(engine: Engine, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no clock of its own")

    class Slow(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Slow":  # type: ignore[override]
            return super().now(tz) - timedelta(hours=3)

    monkeypatch.setattr("app.db.datetime", Slow)
    queue(JobKind.TRAINING)
    with write_session(engine) as session:
        claimed = leases.claim(session, worker="its clock is slow", kinds=list(JobKind), lease_seconds=60)
    monkeypatch.undo()
    with write_session(engine) as session:
        assert claimed is not None and leases.sweep(session, attempts=3) == []
