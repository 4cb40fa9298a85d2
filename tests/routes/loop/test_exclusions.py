"""Leaving out and putting back as people and scripts do it: pages, API, command line."""

import json
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session
from app.models import Exclusion, User
from app.services.collecting import exclusions
from tests.factory import Factory
from tests.services.loop.removal.test_imports import brought, waiting
from tests.test_cli import prefloop

OWN = {"Sec-Fetch-Site": "same-origin"}
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def settled(engine: Engine) -> Exclusion:
    """The newest exclusion, once its pairs are as it wants them."""
    for _ in range(200):
        with read_session(engine) as session:
            row = session.get_one(Exclusion, 1)
        if row.settled:
            return row
        time.sleep(0.02)
    raise AssertionError("it is still at work")


def test_a_pair_is_left_out_and_put_back_on_its_page(client: TestClient, factory: Factory, sign_in: Sign) -> None:
    project = factory.judged(2)
    sign_in(factory.admin())
    assert "Leave this pair out" in client.get("/comparisons/1").text
    form = {"kind": "pair", "subject": "1", "reason": "cut off", "next": "/comparisons/1"}
    sent = client.post(f"/projects/{project.slug}/exclusions", data=form, headers=OWN)
    assert (sent.status_code, sent.headers["location"]) == (303, "/comparisons/1")
    page = client.get("/comparisons/1").text
    assert "cut off" in page and "Put it back" in page
    assert "1 excluded" in client.get(f"/projects/{project.slug}/data").text
    assert "left out" in client.get(f"/projects/{project.slug}/data?state=excluded").text
    assert "Comparison 1" in client.get(f"/projects/{project.slug}/exclusions").text
    assert client.post("/exclusions/1/lift", data={"next": "/comparisons/1"}, headers=OWN).status_code == 303
    assert "Leave this pair out" in client.get("/comparisons/1").text


def test_a_judgment_and_a_person_are_left_out_on_the_page(client: TestClient, factory: Factory, sign_in: Sign) -> None:
    project = factory.judged(1)
    sign_in(factory.admin())
    where = f"/projects/{project.slug}/exclusions"
    with read_session(factory.engine) as session:
        from app.models import Judgment

        maker = session.get_one(Judgment, 1).user_id
    for kind, subject in (("judgment", 1), ("person", maker)):
        client.post(where, data={"kind": kind, "subject": subject, "next": "/comparisons/1"}, headers=OWN)
    page = client.get("/comparisons/1").text
    assert "left out" in page and "Put back" in page
    assert "All votes of" in client.get(where).text


def test_an_import_is_undone_on_its_page(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, sign_in: Sign
) -> None:
    admin = factory.admin()
    project = factory.project(by=admin)
    row = brought(engine, settings, project, admin, waiting(3))
    factory.judge(project, factory.user())
    sign_in(admin)
    assert "Undo" in client.get(f"/projects/{project.slug}/import").text
    assert "Undo the import" in client.get(f"/imports/{row.id}").text
    assert client.post(f"/imports/{row.id}/undo", data={"reason": "wrong"}, headers=OWN).status_code == 303
    assert settled(engine).removed == 2
    page = client.get(f"/imports/{row.id}").text
    assert "2 pairs that nobody had judged are gone" in page and "Put the judged pairs back" in page
    assert "undone" in client.get(f"/projects/{project.slug}/import").text
    assert "Left out with its import" in client.get("/comparisons/1").text


def test_the_api_leaves_out_lists_and_puts_back(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, api: Api
) -> None:
    admin = factory.admin()
    project, token = factory.judged(2), api(admin)
    where = f"/api/v1/projects/{project.slug}/exclusions"
    made = client.post(where, json={"kind": "pair", "subject": 1, "reason": "odd"}, headers=token)
    assert (made.status_code, made.json()["by"]) == (201, admin.display_name)
    assert client.post(where, json={"kind": "pair", "subject": 1}, headers=token).status_code == 409
    assert client.post(where, json={"kind": "pair", "subject": 99}, headers=token).status_code == 404
    assert client.post(where, json={"kind": "import", "subject": 1}, headers=token).status_code == 422
    comparisons = client.get(f"/api/v1/projects/{project.slug}/comparisons", headers=token).json()["items"]
    assert [one["excluded"] for one in comparisons] == [True, False]
    preview = client.get(f"/api/v1/projects/{project.slug}/preview", headers=token).json()["counts"]
    assert (preview["left_out"], preview["excluded_judgments"]) == ({"excluded": 1}, 0)
    lifted = client.post(f"/api/v1/exclusions/{made.json()['id']}/lift", headers=token).json()
    assert lifted["lifted_by"] == admin.display_name
    assert client.get(where, headers=token).json()["total"] == 1
    row = brought(engine, settings, project, admin, waiting(2))
    undone = client.post(f"/api/v1/imports/{row.id}/undo", json={"reason": "twice"}, headers=token).json()
    assert (undone["kind"], undone["subject"], undone["reason"]) == ("import", row.id, "twice")


def test_the_command_line_does_the_same(engine: Engine, settings: Settings, factory: Factory) -> None:
    admin = factory.admin()
    project = factory.judged(2)
    assert "prefloop exclude lift 1" in prefloop("exclude", "pair", project.slug, "1", "--why", "odd").output
    prefloop("exclude", "judgment", project.slug, "2")
    listed = [json.loads(line) for line in prefloop("exclude", "list", project.slug, "--json").output.splitlines()]
    assert [(one["kind"], one["subject"], one["why"]) for one in listed] == [("judgment", 2, ""), ("pair", 1, "odd")]
    prefloop("exclude", "lift", "1")
    row = brought(engine, settings, project, admin, waiting(2))
    assert "2 pairs are gone" in prefloop("exclude", "import", str(row.id)).output
    with read_session(engine) as session:
        assert exclusions.in_force(session, project_id=project.id).imports == {row.id}
