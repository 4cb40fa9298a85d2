"""Freezes of large projects in the background: what comes of them, and what their page says."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.errors import NotFound
from app.models import Freezing, FreezingState, Project, Snapshot, User
from app.models.base import now
from app.services.datasets import figures
from app.services.training import freezings, runs
from tests.factory import Factory
from tests.pretend_worker import prepare_model

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, factory: Factory) -> Project:
    """A project that counts as large."""
    monkeypatch.setattr(figures, "MOST_JUDGMENTS", 3)
    return factory.judged(8, eval_percent=0)


def begun(factory: Factory, project: Project, by: User, **more: Any) -> Freezing:
    with write_session(factory.engine) as session:
        row, is_new = freezings.begin(session, project=session.merge(project), by=session.merge(by), **more)
    assert is_new
    return row


def test_a_project_is_large_by_its_judgments(factory: Factory, large: Project) -> None:
    small = factory.judged(2)
    with read_session(factory.engine) as session:
        assert freezings.is_large(session, large) and not freezings.is_large(session, small)


def test_a_second_click_finds_the_first_ones(factory: Factory, large: Project) -> None:
    ada, bob = factory.engineer(), factory.engineer()
    first = begun(factory, large, ada)
    with write_session(factory.engine) as session:
        project, again = session.merge(large), session.merge(ada)
        assert freezings.begin(session, project=project, by=again) == (session.get_one(Freezing, first.id), False)
        others = [
            freezings.begin(session, project=project, by=session.merge(bob)),
            freezings.begin(session, project=project, by=again, rule={"min_judgments": 2}),
            freezings.begin(session, project=project, by=again, run={"base_model": "tiny"}),
        ]
    assert [is_new for _, is_new in others] == [True, True, True]


def test_it_ends_with_a_snapshot(factory: Factory, storage: Any, large: Project) -> None:
    row = freezings.carry_out(factory.engine, storage, begun(factory, large, factory.engineer()).id)
    assert (row.state, row.job_id, row.error) == (FreezingState.DONE, None, "")
    with read_session(factory.engine) as session:
        assert session.get_one(Snapshot, row.snapshot_id).counts.train == 8
        assert freezings.latest(session, project=large) is None


def test_what_goes_wrong_is_said(factory: Factory, storage: Any, large: Project) -> None:
    row = begun(factory, large, factory.engineer(), rule={"min_judgments": 9})
    row = freezings.carry_out(factory.engine, storage, row.id)
    assert row.state is FreezingState.FAILED and "nothing to train on" in row.error and row.snapshot_id is None
    lost = begun(factory, large, factory.engineer(), run={"base_model": "tiny", "config": {}, "from_checkpoint": 999})
    assert "no checkpoint 999" in freezings.carry_out(factory.engine, storage, lost.id).error
    with read_session(factory.engine) as session:
        shown = freezings.latest(session, project=large)
        assert shown and shown.id == lost.id
        assert freezings.latest(session, project=large, now=now() + 2 * freezings.SHOWN_FOR) is None
        with pytest.raises(NotFound):
            freezings.get(session, project=factory.project(), freezing_id=row.id)


def test_one_whose_process_died_can_be_started_anew(factory: Factory, large: Project) -> None:
    by = factory.engineer()
    row = begun(factory, large, by)
    later = now() + 2 * freezings.STALLED_AFTER
    assert not freezings.is_stalled(row) and freezings.is_stalled(row, now=later)
    with write_session(factory.engine) as session:
        session.get_one(Freezing, row.id).updated_at -= 2 * freezings.STALLED_AFTER
    assert begun(factory, large, by).id != row.id


def done() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("freezing "):
            thread.join()


def test_the_page_leads_to_the_snapshot(
    sign_in: Callable[[User], TestClient], factory: Factory, large: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long has its page, which waits for it; one that is quick leads to its result at once."""
    browser, go_on = sign_in(factory.engineer()), threading.Event()
    monkeypatch.setattr("app.routes.training.freezings.SECONDS_WAITED", 0.0)
    monkeypatch.setattr("app.writer.give_way", lambda: go_on.wait(60))
    reply = browser.post(f"/projects/{large.slug}/snapshots", headers=OWN)
    page = reply.headers["location"]
    assert (reply.status_code, page) == (303, f"/projects/{large.slug}/freezings/1")
    shown = browser.get(page).text
    assert "is being frozen. It began" in shown and "hx-trigger" in shown and "http-equiv" in shown
    assert f'href="{page}"' in browser.get(f"/projects/{large.slug}/data").text
    assert browser.post(f"/projects/{large.slug}/snapshots", headers=OWN).headers["location"] == page
    go_on.set()
    done()
    fragment = browser.get(page, headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert fragment.strip().startswith('<section id="freezing"') and "hx-get" not in fragment
    assert (
        'href="/snapshots/1"' in fragment and f'href="{page}"' not in browser.get(f"/projects/{large.slug}/data").text
    )
    monkeypatch.setattr("app.routes.training.freezings.SECONDS_WAITED", 60.0)
    again = browser.post(f"/projects/{large.slug}/snapshots", headers=OWN)
    assert again.headers["location"] == "/snapshots/1"
    assert browser.get(f"/projects/{large.slug}/freezings/99").status_code == 404


def test_train_on_current_dataset_stays_one_click(
    sign_in: Callable[[User], TestClient],
    factory: Factory,
    large: Project,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare_model(settings)
    monkeypatch.setattr("app.routes.training.freezings.SECONDS_WAITED", 60.0)
    browser = sign_in(factory.engineer())
    sent = {"base_model": "tiny", "preset": "standard", "key": "once", "note": "large"}
    reply = browser.post(f"/projects/{large.slug}/train", data=sent, headers=OWN)
    assert (reply.status_code, reply.headers["location"]) == (303, "/jobs/1"), reply.text
    with read_session(factory.engine) as session:
        run = runs.get(session, 1)
        assert (run.note, run.snapshot.number, run.base_model) == ("large", 1, "tiny")
        assert session.get_one(Freezing, 1).job_id == 1
    assert browser.post(f"/projects/{large.slug}/train", data=sent, headers=OWN).headers["location"] == "/jobs/1"
