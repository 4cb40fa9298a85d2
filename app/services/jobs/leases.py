"""The worker's side of a job: claim it, keep it, tell how it goes, end it; and take it from a worker that fell silent.

Whoever holds the lease's token may write; everybody else gets LeaseLost.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.db import database_now
from app.errors import Conflict
from app.events import log as events
from app.events.types import Event, Failed, PhaseReached, StateChanged, StepTaken
from app.models import Job, JobKind, JobState
from app.services.jobs import jobs

LONGEST_ERROR = 4000


class LeaseLost(Conflict):
    """The job was taken from this worker: it must stop and write nothing more."""

    code = "lease_lost"


@dataclass(frozen=True, slots=True)
class Lost:
    """A running job whose worker fell silent, and what became of it."""

    job_id: int
    state: JobState


def claim(
    session: Session,
    *,
    worker: str,
    kinds: Collection[JobKind],
    without_device: Collection[JobKind] = (),
    lease_seconds: float,
    now: datetime | None = None,
) -> Job | None:
    """Take the oldest queued job of these kinds for this worker, or None. Two workers never get the same one.

    without_device: kinds of which only jobs that need no device may be taken.
    """
    now = now or database_now(session)
    oldest = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, or_(Job.kind.in_(kinds), Job.kind.in_(without_device) & ~Job.needs_device))
        .order_by(Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (job_id := session.scalar(oldest)) is not None:
        token = secrets.token_hex(16)
        taken = jobs.move(
            session,
            job_id,
            JobState.RUNNING,
            source=JobState.QUEUED,
            worker=worker,
            lease_token=token,
            attempts=Job.attempts + 1,
            lease_until=now + timedelta(seconds=lease_seconds),
            started_at=func.coalesce(Job.started_at, now),
            phase="starting",
        )
        if taken:
            job = session.scalars(jobs.loaded().where(Job.id == job_id).execution_options(populate_existing=True)).one()
            running = StateChanged(state=JobState.RUNNING, worker=worker, attempt=job.attempts)
            jobs.record_state(session, job_id, running, now)
            return job
    return None


def heartbeat(session: Session, *, job_id: int, token: str, lease_seconds: float, now: datetime | None = None) -> bool:
    """Extend the lease; True when somebody wants the job cancelled. Raises LeaseLost."""
    now = now or database_now(session)
    extended = _held(job_id, token).values(lease_until=now + timedelta(seconds=lease_seconds))
    if not jobs.changed(session, extended):
        raise LeaseLost(f"Job {job_id} was taken from this worker.")
    return session.scalar(select(Job.cancel_requested_at).where(Job.id == job_id)) is not None


def check(session: Session, *, job_id: int, token: str) -> bool:
    """Whether the job is to be cancelled, without extending the lease. Raises LeaseLost."""
    row = session.execute(
        select(Job.cancel_requested_at).where(Job.id == job_id, Job.state == JobState.RUNNING, Job.lease_token == token)
    ).first()
    if row is None:
        raise LeaseLost(f"Job {job_id} was taken from this worker.")
    return row[0] is not None


def hold(session: Session, *, job_id: int, token: str) -> Job:
    """The job's row, locked till the commit. Raises LeaseLost."""
    held = select(Job).where(Job.id == job_id, Job.state == JobState.RUNNING, Job.lease_token == token)
    job = session.scalars(held.with_for_update()).first()
    if job is None:
        raise LeaseLost(f"Job {job_id} was taken from this worker.")
    return job


def progress(
    session: Session,
    *,
    job_id: int,
    token: str,
    printed: Sequence[Event],
    output_bytes: int,
    now: datetime | None = None,
) -> None:
    """Keep what the program printed, up to byte `output_bytes` of its output, and what it says of its progress.

    Its `state` events name the phase that it is in as `stage`. Raises LeaseLost.
    """
    job = hold(session, job_id=job_id, token=token)
    job.output_bytes = output_bytes
    for event in printed:
        if isinstance(event, PhaseReached):
            job.phase = (event.stage or job.phase)[:32]
        if isinstance(event, StepTaken) and event.step is not None:
            if event.step > job.step:
                # It got further than any attempt before: the earlier ones don't count.
                job.attempts = min(job.attempts, 1)
            job.step = event.step
        if isinstance(event, PhaseReached | StepTaken):
            job.total_steps = event.total_steps or job.total_steps
            job.eta_seconds = job.eta_seconds if event.eta_seconds is None else event.eta_seconds
    session.flush()
    if printed:
        events.append_all(session, job=job_id, events=printed, now=now)


def succeed(session: Session, *, job_id: int, token: str, now: datetime | None = None) -> None:
    """End the job well. Raises LeaseLost."""
    _finish(session, job_id, token, StateChanged(state=JobState.SUCCEEDED), now)


def fail(
    session: Session,
    *,
    job_id: int,
    token: str,
    code: str,
    error: str,
    kept: str = "",
    lines: Sequence[str] = (),
    now: datetime | None = None,
) -> None:
    """End the job with a reason for people (`error`) and for scripts (`code`), what is kept, and its last lines.

    Raises LeaseLost.
    """
    error = error[:LONGEST_ERROR]
    why = Failed(code=code, message=error, kept=kept, lines=list(lines))
    ended = StateChanged(state=JobState.FAILED, error=error or None)
    _finish(session, job_id, token, ended, now, why=why, error=error, error_code=code[:48])


def end_cancelled(session: Session, *, job_id: int, token: str, kept: str = "", now: datetime | None = None) -> None:
    """Raises LeaseLost."""
    _finish(session, job_id, token, StateChanged(state=JobState.CANCELLED, kept=kept or None), now)


def give_back(session: Session, *, job_id: int, token: str, reason: str, now: datetime | None = None) -> None:
    """Queue the job again, for a worker that is shutting down: this start is not counted. Raises LeaseLost."""
    now = now or database_now(session)
    if not jobs.move(
        session,
        job_id,
        JobState.QUEUED,
        source=JobState.RUNNING,
        token=token,
        lease_token=None,
        lease_until=None,
        attempts=Job.attempts - 1,
        worker="",
        phase="",
        eta_seconds=None,
    ):
        raise LeaseLost(f"Job {job_id} was taken from this worker.")
    jobs.record_state(session, job_id, StateChanged(state=JobState.QUEUED, reason=reason or None), now)


def sweep(session: Session, *, attempts: int, now: datetime | None = None) -> list[Lost]:
    """Take running jobs from workers that fell silent: back to the queue, or failed after so many attempts.

    It reads no column whose values this version may not know: a job of a newer version's kind is freed like any other.
    """
    now = now or database_now(session)
    lost = []
    silent = (
        select(Job.id, Job.worker, Job.attempts, Job.lease_token, Job.cancel_requested_at)
        .where(Job.state == JobState.RUNNING, Job.lease_until < now)
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
    )
    for job_id, worker, started, token, cancel_requested_at in session.execute(silent).all():
        more: dict[str, Any]
        free = {"lease_token": None, "lease_until": None, "eta_seconds": None}
        if cancel_requested_at is not None:
            why = "It was cancelled, and its worker no longer answers."
            to, more = JobState.CANCELLED, {"finished_at": now}
        elif started >= attempts:
            why = f"Its worker fell silent {started} times, last {worker}. Look at that machine, then try again."
            to, more = JobState.FAILED, {"finished_at": now, "error": why, "error_code": "worker_lost"}
        else:
            why = f"The worker {worker} no longer answers."
            to, more = JobState.QUEUED, {"worker": "", "phase": ""}
        if jobs.move(session, job_id, to, source=JobState.RUNNING, token=token, **free, **more):
            if to is JobState.FAILED:
                events.append(session, job=job_id, event=Failed(code="worker_lost", message=why), now=now)
            jobs.record_state(session, job_id, StateChanged(state=to, reason=why), now)
            lost.append(Lost(job_id, to))
    return lost


def _finish(
    session: Session,
    job_id: int,
    token: str,
    ended: StateChanged,
    now: datetime | None,
    *,
    why: Failed | None = None,
    error: str = "",
    error_code: str = "",
) -> None:
    now = now or database_now(session)
    if not jobs.move(
        session,
        job_id,
        ended.state,
        source=JobState.RUNNING,
        token=token,
        finished_at=now,
        error=error,
        error_code=error_code,
        lease_token=None,
        lease_until=None,
        eta_seconds=None,
    ):
        raise LeaseLost(f"Job {job_id} was taken from this worker.")
    if why is not None:
        events.append(session, job=job_id, event=why, now=now)
    jobs.record_state(session, job_id, ended, now)


def _held(job_id: int, token: str) -> Any:
    return update(Job).where(Job.id == job_id, Job.state == JobState.RUNNING, Job.lease_token == token)
