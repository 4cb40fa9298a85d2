"""A job's events as rows: appended with the change that they tell of, read after an id."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import after_commit
from app.events.reading import of_row
from app.events.types import Event, StateChanged
from app.events.wake import WakePages
from app.models import FINISHED, Job, JobEvent
from app.models.base import now as utc_now

PAGE = 500


def append(
    session: Session,
    *,
    job: Job | int,
    event: Event,
    now: datetime | None = None,
) -> JobEvent:
    """Add one event to a job's history."""
    return append_all(session, job=job, events=[event], now=now)[0]


def append_all(
    session: Session,
    *,
    job: Job | int,
    events: Sequence[Event],
    now: datetime | None = None,
) -> list[JobEvent]:
    """Add events in order. After the commit the pages that watch the job hear of them."""
    job_id = job if isinstance(job, int) else job.id
    # Ids are drawn before they are committed: with the job's row locked, no reader sees a later id of it first.
    session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
    rows = [
        JobEvent(job_id=job_id, type=event.type, step=event.step, data=event.data, created_at=now or utc_now())
        for event in events
    ]
    for row in rows:
        session.add(row)
        session.flush()
    after_commit(session, WakePages(job_id))
    return rows


def after(session: Session, *, job_id: int, after: int = 0, limit: int = PAGE) -> list[JobEvent]:
    """The job's events with an id above `after`, oldest first, at most `limit`."""
    rows = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id).limit(limit)
    return list(session.scalars(rows))


def last(session: Session, *, job_id: int) -> JobEvent | None:
    return session.scalars(
        select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id.desc()).limit(1)
    ).first()


def is_end(event: JobEvent | None) -> bool:
    """Whether this event says that the job is over."""
    told = of_row(event) if event is not None else None
    return isinstance(told, StateChanged) and told.state in FINISHED
