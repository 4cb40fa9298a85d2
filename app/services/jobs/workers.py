"""Workers: who is there, on what, which kinds of jobs they can do, and whether they still live."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import String, delete, select, type_coerce, update
from sqlalchemy.orm import Session

from app.db import database_now
from app.models import Job, JobKind, JobState, ProjectRole, Worker
from app.services.accounts import access
from app.services.accounts.access import Caller

FORGOTTEN_AFTER = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class RunningJob:
    """The job that a worker has in hand; `kind` is text, since another version may know more kinds."""

    id: int
    kind: str


@dataclass(frozen=True, slots=True)
class Status:
    """A worker, whether it was heard within the lease time, and the job that it does."""

    worker: Worker
    alive: bool
    job: RunningJob | None


def register(
    session: Session,
    *,
    name: str,
    device: str,
    memory_bytes: int | None,
    version: str,
    kinds: Iterable[JobKind],
    versions: dict[str, Any],
    product_gflops: dict[str, float] | None = None,
    now: datetime | None = None,
) -> Worker:
    """A worker process started: it describes itself anew. Workers that were silent for a week are forgotten."""
    now = now or database_now(session)
    session.execute(delete(Worker).where(Worker.heartbeat_at < now - FORGOTTEN_AFTER))
    worker = session.scalars(select(Worker).where(Worker.name == name)).first()
    if worker is None:
        worker = Worker(name=name)
        session.add(worker)
    worker.device, worker.memory_bytes = device[:120], memory_bytes
    worker.version, worker.kinds, worker.versions = version, sorted(kind.value for kind in kinds), versions
    worker.product_gflops = product_gflops or {}
    worker.started_at, worker.heartbeat_at = now, now
    session.flush()
    return worker


def measured(session: Session, *, name: str, product_gflops: dict[str, float]) -> None:
    """How fast the worker's device multiplies matrices, in GFLOP/s by number type."""
    session.execute(update(Worker).where(Worker.name == name).values(product_gflops=product_gflops))


def heartbeat(session: Session, *, name: str, now: datetime | None = None) -> bool:
    """A sign of life. False if nobody knows this worker: it should register again."""
    beat = (
        update(Worker).where(Worker.name == name).values(heartbeat_at=now or database_now(session)).returning(Worker.id)
    )
    return session.execute(beat).first() is not None


def leave(session: Session, *, name: str) -> None:
    """A worker that stops in good order takes itself off the list."""
    session.execute(delete(Worker).where(Worker.name == name))


def listing(
    session: Session, *, silent_after: float, caller: Caller | None = None, now: datetime | None = None
) -> list[Status]:
    """Every known worker by name. One that was silent for `silent_after` seconds counts as dead. With a caller, only jobs
    of their projects are named."""
    oldest = (now or database_now(session)) - timedelta(seconds=silent_after)
    running = select(Job.worker, Job.id, type_coerce(Job.kind, String)).where(Job.state == JobState.RUNNING)
    if caller is not None:
        running = running.where(access.within(Job.project_id, caller=caller, least=ProjectRole.ENGINEER))
    # A worker that was started again under its name may be listed with two jobs for a while: the newer one is its own.
    jobs = {worker: RunningJob(job_id, kind) for worker, job_id, kind in session.execute(running.order_by(Job.id))}
    rows = session.scalars(select(Worker).order_by(Worker.name))
    return [Status(worker, worker.heartbeat_at > oldest, jobs.get(worker.name)) for worker in rows]


def alive(session: Session, *, silent_after: float, now: datetime | None = None) -> list[Worker]:
    """The workers that were heard within `silent_after` seconds, by name."""
    oldest = (now or database_now(session)) - timedelta(seconds=silent_after)
    return list(session.scalars(select(Worker).where(Worker.heartbeat_at > oldest).order_by(Worker.name)))


def able(living: Iterable[Worker], kind: JobKind) -> list[Worker]:
    """Those of these workers that can do jobs of a kind."""
    return [worker for worker in living if kind.value in worker.kinds]
