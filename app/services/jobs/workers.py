"""Workers: who is there, on what, and whether it still lives."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.models import Job, JobState, Worker
from app.models.base import now as utc_now

FORGOTTEN_AFTER = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Status:
    """A worker, whether it was heard within the lease time, and the job that it runs."""

    worker: Worker
    alive: bool
    job: Job | None


def register(
    session: Session,
    *,
    name: str,
    device: str,
    memory_bytes: int | None,
    versions: dict[str, Any],
    now: datetime | None = None,
) -> Worker:
    """A worker process started: it describes itself anew. Workers that were silent for a week are forgotten."""
    now = now or utc_now()
    session.execute(delete(Worker).where(Worker.heartbeat_at < now - FORGOTTEN_AFTER))
    worker = session.scalars(select(Worker).where(Worker.name == name)).first()
    if worker is None:
        worker = Worker(name=name)
        session.add(worker)
    worker.device, worker.memory_bytes, worker.versions = device[:120], memory_bytes, versions
    worker.job_id, worker.started_at, worker.heartbeat_at = None, now, now
    session.flush()
    return worker


def heartbeat(session: Session, *, name: str, job_id: int | None = None, now: datetime | None = None) -> bool:
    """A sign of life. False if nobody knows this worker: it should register again."""
    now = now or utc_now()
    beat = update(Worker).where(Worker.name == name).values(heartbeat_at=now, job_id=job_id).returning(Worker.id)
    return session.execute(beat).first() is not None


def leave(session: Session, *, name: str) -> None:
    """A worker that stops in good order takes itself off the list."""
    session.execute(delete(Worker).where(Worker.name == name))


def listing(session: Session, *, silent_after: float, now: datetime | None = None) -> list[Status]:
    """Every known worker by name. One that was silent for `silent_after` seconds counts as dead."""
    oldest = (now or utc_now()) - timedelta(seconds=silent_after)
    rows = session.execute(
        select(Worker, Job)
        .outerjoin(Job, (Job.id == Worker.job_id) & (Job.state == JobState.RUNNING) & (Job.worker == Worker.name))
        .order_by(Worker.name)
    )
    return [Status(worker, worker.heartbeat_at > oldest, job) for worker, job in rows]


def alive(session: Session, *, silent_after: float, now: datetime | None = None) -> int:
    """How many workers were heard within `silent_after` seconds."""
    oldest = (now or utc_now()) - timedelta(seconds=silent_after)
    return session.scalar(select(func.count()).where(Worker.heartbeat_at > oldest)) or 0
