"""Training jobs: the only code that changes a job's state, each time by compare-and-set with its event beside it."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app import events, paging
from app.db import after_commit
from app.errors import Conflict, Invalid, NotFound, SnapshotEmpty
from app.models import TRANSITIONS, Job, JobState, Project, Snapshot, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.datasets import snapshots
from app.services.jobs.wishes import RingWorkers
from app.services.training import base_models, run_settings
from app.services.training.estimates import Estimate, estimate
from app.storage import Storage

__all__ = ["Estimate", "estimate"]

validate_config = run_settings.validate


def create(
    session: Session,
    *,
    snapshot: Snapshot,
    base_model: str,
    config: dict[str, Any],
    by: User | None,
    idempotency_key: str | None = None,
    note: str = "",
    now: datetime | None = None,
) -> Job:
    """Queue a training run. The same key from the same person returns the job that it made before.

    Raises Invalid (model, setting), SnapshotEmpty, Conflict (the key was used for something else).
    """
    checked = validate_config(config)
    base_model = _checked_model(base_model)
    wanted = (snapshot.id, base_model, checked, note[:255])
    if known := _by_key(session, by, idempotency_key):
        return _same(known, wanted)
    if not train_pairs(snapshot):
        raise SnapshotEmpty(
            f"Snapshot {snapshot.number} has no pairs to train on.", "Collect more judgments and freeze again."
        )
    job = Job(
        project_id=snapshot.project_id,
        snapshot_id=snapshot.id,
        base_model=base_model,
        config=checked,
        note=note[:255],
        state=JobState.QUEUED,
        metrics={},
        idempotency_key=idempotency_key,
        created_by_id=by.id if by else None,
        created_at=now or utc_now(),
    )
    try:
        with session.begin_nested():
            session.add(job)
            session.flush()
    except IntegrityError:
        known = _by_key(session, by, idempotency_key)
        if known is None:
            raise
        return _same(known, wanted)
    record_state(session, job.id, JobState.QUEUED, now)
    audit.record(
        session, by=by, action="job.create", target=f"job {job.id}", snapshot=snapshot.id, base_model=base_model
    )
    return job


def train_on_current(
    session: Session,
    *,
    project: Project,
    by: User | None,
    base_model: str,
    config: dict[str, Any],
    storage: Storage,
    idempotency_key: str | None = None,
    rule: Any = None,
    note: str = "",
    now: datetime | None = None,
) -> Job:
    """Freeze what was judged so far and queue a run on it. A double click with one key makes one job."""
    if known := _by_key(session, by, idempotency_key):
        return known
    validate_config(config)  # before a snapshot is made that nobody wanted
    _checked_model(base_model)
    snapshot = snapshots.freeze(session, project=project, by=by, storage=storage, rule=rule, now=now)
    return create(
        session,
        snapshot=snapshot,
        base_model=base_model,
        config=config,
        by=by,
        idempotency_key=idempotency_key,
        note=note,
        now=now,
    )


def get(session: Session, job_id: int) -> Job:
    """The job with its project, snapshot and starter. Raises NotFound."""
    job = session.scalars(loaded().where(Job.id == job_id)).first() if 0 < job_id < 2**31 else None
    if job is None:
        raise NotFound(f"There is no job {job_id}.", "Look at the list of runs.")
    return job


def listing(
    session: Session,
    *,
    project: Project | None = None,
    snapshot: Snapshot | None = None,
    state: JobState | None = None,
    page: int = 1,
    size: int = 50,
) -> paging.Page[Job]:
    """Jobs, newest first, each with its project, snapshot and starter."""
    query = loaded().order_by(Job.id.desc())
    if project is not None:
        query = query.where(Job.project_id == project.id)
    if snapshot is not None:
        query = query.where(Job.snapshot_id == snapshot.id)
    if state is not None:
        query = query.where(Job.state == state)
    return paging.fetch(session, query, page=page, size=size)


def train_pairs(snapshot: Snapshot) -> int:
    """Pairs in the snapshot's training file."""
    return sum(int(file["pairs"]) for file in snapshot.files if file["name"] == "train.jsonl")


def place_in_queue(session: Session, *, job: Job) -> int:
    """How many queued jobs go before this one."""
    return session.scalar(select(func.count()).where(Job.state == JobState.QUEUED, Job.id < job.id)) or 0


def cancel(session: Session, *, job: Job, by: User | None, now: datetime | None = None) -> Job:
    """End a queued job, or ask the worker of a running one to. Asking again changes nothing.

    Raises Conflict if the job succeeded or failed.
    """
    now = now or utc_now()
    name = by.display_name if by else "Somebody"
    for _ in range(2):  # a worker may claim it between the two looks
        if move(session, job.id, JobState.CANCELLED, source=JobState.QUEUED, finished_at=now, error="", error_code=""):
            record_state(session, job.id, JobState.CANCELLED, now, reason=f"{name} cancelled it before it started.")
            audit.record(session, by=by, action="job.cancel", target=f"job {job.id}")
            break
        asked = update(Job).where(Job.id == job.id, Job.state == JobState.RUNNING, Job.cancel_requested_at.is_(None))
        if changed(session, asked.values(cancel_requested_at=now)):
            text = f"{name} cancelled the run; it saves its state first."
            events.append(session, job=job, type="log", data={"message": text}, now=now)
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
    """Queue a failed or cancelled job again; it goes on from its last training state, if there is one.

    Raises Conflict if it is queued, running or has succeeded.
    """
    now = now or utc_now()
    fresh: dict[str, Any] = {
        "attempts": 0,
        "error": "",
        "error_code": "",
        "cancel_requested_at": None,
        "finished_at": None,
        "worker": "",
        "eta_seconds": None,
        "stage": "",
    }
    if not any(
        move(session, job.id, JobState.QUEUED, source=state, **fresh) for state in (JobState.FAILED, JobState.CANCELLED)
    ):
        session.refresh(job)
        raise Conflict(f"Job {job.id} is {job.state.value}.", "Only a failed or cancelled job can be tried again.")
    record_state(session, job.id, JobState.QUEUED, now, retried_by=by.username if by else "")
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


def record_state(session: Session, job_id: int, state: JobState, now: datetime | None, **told: Any) -> None:
    """The event of a change of state, in the transaction that changed it. For a queued job the workers' bell rings."""
    data = {"state": state.value} | {key: value for key, value in told.items() if value not in ("", None)}
    events.append(session, job=job_id, type="state", data=data, now=now)
    if state is JobState.QUEUED:
        after_commit(session, RingWorkers(job_id))


def loaded() -> Select[Job]:
    """Jobs with what pages show of them: project, snapshot, who started it."""
    return select(Job).options(joinedload(Job.project), joinedload(Job.snapshot), joinedload(Job.created_by))


def _checked_model(name: str) -> str:
    name = name.strip()
    if not base_models.NAME.fullmatch(name):
        raise Invalid(
            f"“{name[:80]}” is no name of a base model.",
            "`prefloop models list` shows those that are here.",
            field="base_model",
        )
    return name


def _by_key(session: Session, by: User | None, key: str | None) -> Job | None:
    if key is None or by is None:
        return None
    return session.scalars(loaded().where(Job.created_by_id == by.id, Job.idempotency_key == key)).first()


def _same(job: Job, wanted: tuple[int, str, dict[str, Any], str]) -> Job:
    if (job.snapshot_id, job.base_model, job.config, job.note) != wanted:
        raise Conflict(
            f"This Idempotency-Key already made job {job.id}, from another request.", "Use a new key.", job_id=job.id
        )
    return job
