"""What a queued job waits for: the jobs before it, or a worker that can do its kind."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Job, JobKind, JobState
from app.services.jobs import workers
from app.services.jobs.jobs import NOUNS


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job's place. `before`: how many go first; `able` of the `alive` living workers can do its kind."""

    kind: JobKind
    before: int
    able: int
    alive: int

    @property
    def text(self) -> str:
        """For people, without a full stop."""
        if not self.alive:
            return "no worker is running"
        if not self.able:
            return f"no running worker can do {NOUNS[self.kind]}s: start one of this version of Prefloop"
        if not self.before:
            return "next in the queue"
        return f"{self.before} job{'' if self.before == 1 else 's'} before it"


def count(session: Session, *, kinds: Collection[JobKind]) -> int:
    """How many jobs of these kinds are queued."""
    return session.scalar(select(func.count()).where(Job.state == JobState.QUEUED, Job.kind.in_(kinds))) or 0


def of(
    session: Session, *, jobs: Iterable[Job], silent_after: float, now: datetime | None = None
) -> dict[int, Waiting]:
    """What the queued ones among these jobs wait for, by id."""
    queued = [job for job in jobs if job.state is JobState.QUEUED]
    if not queued:
        return {}
    living = workers.alive(session, silent_after=silent_after, now=now)
    last = max(job.id for job in queued)
    order = list(session.scalars(select(Job.id).where(Job.state == JobState.QUEUED, Job.id <= last).order_by(Job.id)))
    place = {job_id: number for number, job_id in enumerate(order)}
    return {
        job.id: Waiting(job.kind, place.get(job.id, 0), len(workers.able(living, job.kind)), len(living))
        for job in queued
    }


def unable(session: Session, *, silent_after: float, now: datetime | None = None) -> list[JobKind]:
    """The kinds of queued jobs that no living worker can do."""
    kinds = session.scalars(select(Job.kind).where(Job.state == JobState.QUEUED).distinct().order_by(Job.kind)).all()
    living = workers.alive(session, silent_after=silent_after, now=now)
    return [kind for kind in kinds if not workers.able(living, kind)]
