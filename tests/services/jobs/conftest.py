"""A queued job, and what tests of every kind of job do with one."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, select

from app.db import read_session, write_session
from app.models import Job, JobEvent, JobKind, Project, User
from app.services.jobs import jobs, leases
from tests.factory import Factory

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = 60.0
Queue = Callable[..., Job]
Claim = Callable[..., Job]


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project()


@pytest.fixture
def queue(engine: Engine, project: Project, engineer: User) -> Queue:
    """Queues a job of a kind, without what the kind itself adds to it."""

    def queue(kind: JobKind = JobKind.TRAINING) -> Job:
        with write_session(engine) as session:
            job, _ = jobs.queue(session, kind=kind, project_id=project.id, by=session.merge(engineer), now=NOON)
            return job

    return queue


@pytest.fixture
def job(queue: Queue) -> Job:
    return queue()


@pytest.fixture
def claim(engine: Engine) -> Claim:
    """Claims the oldest job for a worker that can do every kind."""

    def claim(worker: str = "w1", now: datetime = NOON) -> Job:
        with write_session(engine) as session:
            job = leases.claim(session, worker=worker, kinds=list(JobKind), lease_seconds=LEASE, now=now)
        assert job is not None
        return job

    return claim


def states(engine: Engine, job_id: int) -> list[str]:
    """The states that the job's history tells, in order."""
    with read_session(engine) as session:
        rows = session.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == "state").order_by(JobEvent.id)
        )
        return [row.data["state"] for row in rows if "state" in row.data]
