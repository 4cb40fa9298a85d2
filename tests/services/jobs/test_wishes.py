"""Whoever queues a job rings the workers, by whatever way: the services note it, and the commit carries it out."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import get_engine, read_session, write_session
from app.models import Job, JobEvent, JobKind
from app.services.jobs import jobs, leases
from app.services.training import runs
from tests.factory import Factory
from tests.services_for_tests import free_port


def rings(settings: Settings) -> list[Path]:
    return list((settings.broker_dir / "messages").glob("*.msg"))


@pytest.fixture
def job(engine: Engine, factory: Factory) -> Job:
    """Queued; the ring of that is already heard."""
    job = queue(engine, factory)
    assert len(rings(factory.settings)) == 1
    rings(factory.settings)[0].unlink()
    return job


def queue(engine: Engine, factory: Factory) -> Job:
    snapshot, user = factory.snapshot(factory.judged(4)), factory.engineer()
    with write_session(engine) as session:
        return runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(user)
        ).job


def test_retry_rings(engine: Engine, settings: Settings, job: Job) -> None:
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job.id), by=None)
    assert rings(settings) == []
    with write_session(engine) as session:
        jobs.retry(session, job=jobs.get(session, job.id), by=None)
        assert rings(settings) == [], "nothing rings inside the transaction"
    assert len(rings(settings)) == 1


def test_job_that_its_worker_gives_back_rings_for_another(engine: Engine, settings: Settings, job: Job) -> None:
    with write_session(engine) as session:
        claimed = leases.claim(session, worker="leaving", kinds=list(JobKind), lease_seconds=60)
    with write_session(engine) as session:
        leases.give_back(session, job_id=job.id, token=claimed.lease_token, reason="It is shutting down.")
    assert len(rings(settings)) == 1


def test_job_of_a_silent_worker_rings_for_another(engine: Engine, settings: Settings, job: Job) -> None:
    with write_session(engine) as session:
        leases.claim(session, worker="gone", kinds=list(JobKind), lease_seconds=-1)
    with write_session(engine) as session:
        leases.sweep(session, attempts=3)
    assert len(rings(settings)) == 1


def test_nothing_rings_for_a_job_that_never_came_to_be(engine: Engine, settings: Settings, factory: Factory) -> None:
    snapshot = factory.snapshot(factory.judged(4))
    with write_session(engine) as session:
        runs.create(session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=None)
        session.rollback()
    assert rings(settings) == []


def test_broker_that_is_away_leaves_the_job_queued_with_a_word_on_its_page(
    settings: Settings, factory: Factory
) -> None:
    away = settings.model_copy(update={"broker_url": f"redis://:pass-word@127.0.0.1:{free_port()}/0"})
    job = queue(get_engine(away), factory)
    with read_session(factory.engine) as session:
        assert jobs.get(session, job.id).state == "queued"
        (note,) = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.type == "log"))
    assert "stays queued" in note.data["message"]
    assert "pass-word" not in note.data["message"]
