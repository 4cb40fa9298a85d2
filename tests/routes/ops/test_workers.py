"""The admins' page of workers: who is there, what each can do, and what nobody can."""

from collections.abc import Callable

from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.models import JobKind, User
from app.services.jobs import jobs, leases
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.routes.training.test_jobs import words

SignIn = Callable[[User], TestClient]


def test_workers_are_shown_with_version_kinds_and_job(
    sign_in: SignIn, factory: Factory, engine: Engine, settings: Settings
) -> None:
    project, browser = factory.project(), sign_in(factory.admin())
    with write_session(engine) as session:
        job, _ = jobs.queue(session, kind=JobKind.EXPORT, project_id=project.id, by=None)
    PretendWorker(engine, settings, "trains")
    page = words(browser.get("/workers").text)
    assert "No running worker can do the exports that wait." in page
    PretendWorker(engine, settings, "does both", kinds=(JobKind.TRAINING, JobKind.EXPORT))
    page = words(browser.get("/workers").text)
    assert "that wait" not in page
    assert "export, training" in page and "Prefloop 0.1.0, torch 2.13.0" in page
    with write_session(engine) as session:
        leases.claim(session, worker="does both", kinds=list(JobKind), lease_seconds=60)
    shown = browser.get("/workers").text
    assert f'<a href="/jobs/{job.id}">Export {job.id}</a>' in shown and "busy" in words(shown)
