"""Jobs of every kind: the only code that changes a job's state, by compare-and-set with its event beside it."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app import paging
from app.db import after_commit
from app.errors import Conflict, NotFound
from app.events import log as events
from app.events.types import Logged, StateChanged
from app.models import TRANSITIONS, Job, JobKind, JobState, Project, ProjectRole, User
from app.models.base import now as utc_now
from app.services.accounts import access, audit
from app.services.accounts.access import Caller
from app.services.jobs.wishes import RingWorkers

# What people call a job of each kind.
NOUNS: dict[JobKind, str] = {
    JobKind.TRAINING: "run",
    JobKind.EXPORT: "export",
    JobKind.GENERATION: "generation",
    JobKind.LABEL_CHECK: "label check",
}


def queue(
    session: Session,
    *,
    kind: JobKind,
    project_id: int,
    by: User | None,
    idempotency_key: str | None = None,
    needs_device: bool = True,
    now: datetime | None = None,
    **audited: object,
) -> tuple[Job, bool]:
    """A queued job, and whether it is new: the same key from the same person returns the job that it made before.

    needs_device: whether this one takes what its kind needs; False for a job that only asks others.
    The caller adds the row of the kind's own table in the same transaction. `audited` goes into the audit trail.
    Raises Conflict if the key made a job of another kind, or the project is archived.
    """
    now = now or utc_now()
    if known := by_key(session, kind=kind, by=by, key=idempotency_key):
        return known, False
    access.require_open(session.get_one(Project, project_id))
    job = Job(
        kind=kind,
        project_id=project_id,
        state=JobState.QUEUED,
        idempotency_key=idempotency_key,
        needs_device=needs_device,
        created_by_id=by.id if by else None,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(job)
            session.flush()
    except IntegrityError:  # the other click of a double click was first
        known = by_key(session, kind=kind, by=by, key=idempotency_key)
        if known is None:
            raise
        return known, False
    record_state(session, job.id, StateChanged(state=JobState.QUEUED), now)
    audit.record(session, by=by, action="job.create", target=f"job {job.id}", **audited)
    return job, True


def by_key(session: Session, *, kind: JobKind, by: User | None, key: str | None) -> Job | None:
    """The job that this person's key made before. Raises Conflict if it is of another kind."""
    if key is None or by is None:
        return None
    job = session.scalars(loaded().where(Job.created_by_id == by.id, Job.idempotency_key == key)).first()
    if job is not None and job.kind is not kind:
        raise key_used(job)
    return job


def key_used(job: Job) -> Conflict:
    """The fact that a key stands for another request already."""
    return Conflict(
        f"This Idempotency-Key already made job {job.id}, from another request.", "Use a new key.", job_id=job.id
    )


def get(session: Session, job_id: int) -> Job:
    """The job with its project and starter. Raises NotFound."""
    job = session.scalars(loaded().where(Job.id == job_id)).first() if 0 < job_id < 2**31 else None
    if job is None:
        raise NotFound(f"There is no job {job_id}.", "Look at the list of runs.")
    return job


def listing(
    session: Session,
    *,
    project: Project | None = None,
    caller: Caller | None = None,
    kind: JobKind | None = None,
    state: JobState | None = None,
    page: int = 1,
    size: int = 50,
) -> paging.Page[Job]:
    """Jobs of one kind or of every kind, newest first, each with its project and starter; with a caller, those of the
    projects that they are an engineer of."""
    query = loaded().order_by(Job.id.desc())
    if project is not None:
        query = query.where(Job.project_id == project.id)
    if caller is not None:
        query = query.where(access.within(Job.project_id, caller=caller, least=ProjectRole.ENGINEER))
    if kind is not None:
        query = query.where(Job.kind == kind)
    if state is not None:
        query = query.where(Job.state == state)
    return paging.fetch(session, query, page=page, size=size)


def cancel(session: Session, *, job: Job, by: User | None, now: datetime | None = None) -> Job:
    """End a queued job, or ask the worker of a running one to. Asking again changes nothing.

    Raises Conflict if the job succeeded or failed.
    """
    now = now or utc_now()
    name = by.display_name if by else "Somebody"
    for _ in range(2):  # a worker may claim it between the two looks
        if move(session, job.id, JobState.CANCELLED, source=JobState.QUEUED, finished_at=now, error="", error_code=""):
            why = f"{name} cancelled it before it started."
            record_state(session, job.id, StateChanged(state=JobState.CANCELLED, reason=why), now)
            audit.record(session, by=by, action="job.cancel", target=f"job {job.id}")
            break
        asked = update(Job).where(Job.id == job.id, Job.state == JobState.RUNNING, Job.cancel_requested_at.is_(None))
        if changed(session, asked.values(cancel_requested_at=now)):
            text = f"{name} cancelled the {NOUNS[job.kind]}; its worker is told to stop."
            events.append(session, job=job, event=Logged(message=text), now=now)
            audit.record(session, by=by, action="job.cancel", target=f"job {job.id}")
            break
        session.refresh(job)
        if job.state in (JobState.SUCCEEDED, JobState.FAILED):
            raise Conflict(f"Job {job.id} has {job.state.value} already.", "There is nothing to cancel.")
        if job.state is not JobState.QUEUED:
            break
    session.refresh(job)
    return job


def retry(session: Session, *, job: Job, by: User | None, now: datetime | None = None) -> Job:
    """Queue a failed or cancelled job again; it goes on from what its last attempt kept, if anything.

    Raises Conflict if it is queued, running or has succeeded.
    """
    now = now or utc_now()
    access.require_open(job.project)
    fresh: dict[str, Any] = {
        "attempts": 0,
        "error": "",
        "error_code": "",
        "cancel_requested_at": None,
        "finished_at": None,
        "worker": "",
        "eta_seconds": None,
        "phase": "",
    }
    if not any(
        move(session, job.id, JobState.QUEUED, source=state, **fresh) for state in (JobState.FAILED, JobState.CANCELLED)
    ):
        session.refresh(job)
        raise Conflict(f"Job {job.id} is {job.state.value}.", "Only a failed or cancelled job can be tried again.")
    again = StateChanged(state=JobState.QUEUED, retried_by=by.username if by else None)
    record_state(session, job.id, again, now)
    audit.record(session, by=by, action="job.retry", target=f"job {job.id}")
    session.refresh(job)
    return job


def move(
    session: Session, job_id: int, to: JobState, *, source: JobState, token: str | None = None, **values: Any
) -> bool:
    """The compare-and-set: True if the job was in `source` (and held by `token`) and is now in `to`."""
    if to not in TRANSITIONS[source]:
        raise ValueError(f"no job goes from {source} to {to}")
    statement = update(Job).where(Job.id == job_id, Job.state == source)
    if source is JobState.RUNNING:
        statement = statement.where(Job.lease_token == token)
    return changed(session, statement.values(state=to, **values))


def changed(session: Session, statement: Any) -> bool:
    """Run an UPDATE; True if it met its one row."""
    result = cast(CursorResult[Any], session.execute(statement.execution_options(synchronize_session=False)))
    return result.rowcount == 1


def record_state(session: Session, job_id: int, change: StateChanged, now: datetime | None) -> None:
    """The event of a change of state, in the transaction that changed it. For a queued job the workers' bell rings."""
    events.append(session, job=job_id, event=change, now=now)
    if change.state is JobState.QUEUED:
        after_commit(session, RingWorkers(job_id))


def loaded() -> Select[Job]:
    """Jobs with what pages show of them: project and who started it."""
    return select(Job).options(joinedload(Job.project), joinedload(Job.created_by))
