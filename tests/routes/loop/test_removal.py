"""Archiving, deleting and erasing as people and scripts do it."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from app.db import read_session
from app.models import Project, User
from tests.factory import Factory
from tests.test_cli import prefloop

OWN = {"Sec-Fetch-Site": "same-origin"}
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def gone(engine: Engine, slug: str) -> bool:
    for _ in range(250):
        with read_session(engine) as session:
            if session.scalar(select(Project.id).where(Project.slug == slug)) is None:
                return True
        time.sleep(0.02)
    return False


def test_an_archived_project_can_only_be_looked_at(
    client: TestClient, factory: Factory, sign_in: Sign, api: Api
) -> None:
    admin = factory.admin()
    project = factory.judged(2)
    factory.comparison(project)
    sign_in(admin)
    where = f"/projects/{project.slug}"
    assert project.name in client.get("/menu/projects").text
    assert client.post(f"{where}/archive", headers=OWN).status_code == 303
    assert project.name not in client.get("/menu/projects").text
    assert "archived" in client.get("/projects").text
    assert "This project is archived" in client.get(f"{where}/compare").text
    assert "This project is archived" in client.get(f"{where}/data").text
    for path, data in (
        ("settings", {"name": "Other"}),
        ("snapshots", {}),
        ("exclusions", {"kind": "pair", "subject": 1}),
    ):
        assert client.post(f"{where}/{path}", data=data, headers=OWN).status_code == 409, path
    token = api(admin)
    refused = client.post(f"/api/v1/projects/{project.slug}/snapshots", headers=token)
    assert (refused.status_code, refused.json()["code"]) == (409, "project_archived")
    assert client.get(f"/api/v1/projects/{project.slug}", headers=token).json()["archived_at"]
    assert client.post(f"/api/v1/projects/{project.slug}/bring-back", headers=token).json()["archived_at"] is None
    assert client.post(f"/api/v1/projects/{project.slug}/snapshots", headers=token).status_code in (201, 409)


def test_a_project_is_deleted_after_its_name_is_typed(
    client: TestClient, engine: Engine, factory: Factory, sign_in: Sign
) -> None:
    admin = factory.admin()
    project = factory.judged(3)
    sign_in(admin)
    where = f"/projects/{project.slug}/delete"
    wrong = client.post(where, data={"typed_name": project.slug}, headers=OWN)
    assert wrong.status_code == 422 and "isn’t this project" in wrong.text.replace("isn&#39;t", "isn’t")
    assert client.post(where, data={"typed_name": project.name}, headers=OWN).headers["location"] == "/projects"
    assert client.get(f"/projects/{project.slug}/data").status_code == 404
    assert gone(engine, project.slug)
    assert "project.deleted" in client.get("/audit").text


def test_scripts_delete_a_project(client: TestClient, engine: Engine, factory: Factory, api: Api) -> None:
    project, token = factory.judged(2), api(factory.admin())
    where = f"/api/v1/projects/{project.slug}/delete"
    assert client.post(where, json={"name": "nope"}, headers=token).status_code == 422
    assert client.post(where, json={"name": project.name}, headers=token).status_code == 202
    assert gone(engine, project.slug)
    other = factory.judged(2)
    assert "archived" in prefloop("project", "archive", other.slug).output
    assert "is back" in prefloop("project", "bring-back", other.slug).output
    assert "rows, with their files" in prefloop("project", "delete", other.slug, "--name", other.name).output
    assert gone(engine, other.slug)


def test_a_person_is_erased_on_their_page(
    client: TestClient, engine: Engine, factory: Factory, sign_in: Sign, api: Api
) -> None:
    admin = factory.admin()
    project = factory.project(by=admin)
    factory.comparisons(project, 2)
    one, other, third = (factory.user(username=name) for name in ("ann", "bob", "cid"))
    assert factory.judge(project, one) and factory.judge(project, other)
    sign_in(admin)
    assert "Erase for good" in client.get("/people/ann").text
    assert client.post("/people/ann/erase", data={"typed_username": "anne"}, headers=OWN).status_code == 422
    told = client.post("/people/ann/erase", data={"typed_username": "ann"}, headers=OWN)
    assert told.status_code == 200 and "Former evaluator 1" in told.text
    assert client.get("/people/ann").status_code == 404
    erased = client.post("/api/v1/users/bob/erase", json={"votes": "exclude"}, headers=api(admin)).json()
    assert (erased["now_called"], erased["judgments"], erased["excluded"]) == ("Former evaluator 2", 1, True)
    assert "Former evaluator 3" in prefloop("user", "erase", third.username, "--yes").output
    for where in ("/people", "/audit", f"/projects/{project.slug}/data", "/comparisons/1"):
        assert "ann" not in client.get(where).text.lower(), where
