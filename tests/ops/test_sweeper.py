"""The web server frees a job whose worker, the last one, is gone."""

import time

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.main import create_app
from app.models import JobKind, JobState
from app.ops import sweeper
from app.services.jobs import jobs, leases
from app.services.training import runs
from tests.factory import Factory

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_job_of_the_last_worker_does_not_run_for_ever(engine: Engine, settings: Settings, factory: Factory) -> None:
    snapshot, user = factory.snapshot(factory.judged(4)), factory.engineer()
    with write_session(engine) as session:
        job = runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(user)
        ).job
        leases.claim(session, worker="gone", kinds=list(JobKind), lease_seconds=-1)

    def state() -> JobState:
        with read_session(engine) as session:
            return jobs.get(session, job.id).state

    assert state() is JobState.RUNNING
    with TestClient(create_app(settings.model_copy(update={"sweep_seconds": 0.02}))):
        deadline = time.monotonic() + 30
        while state() is JobState.RUNNING:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert state() is JobState.QUEUED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sweeper_that_overslept_skips_a_round(settings: Settings) -> None:
    time_of_day = [1000.0]
    rounds = sweeper.Rounds(settings, clock=lambda: time_of_day[0])

    def after(seconds: float) -> bool:
        time_of_day[0] += seconds
        return rounds.was_asleep()

    assert [after(settings.sweep_seconds), after(settings.sweep_seconds + 20)] == [False, False]
    assert [after(8 * 3600), after(settings.sweep_seconds)] == [True, False]
