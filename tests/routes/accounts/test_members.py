"""Members of a project: their page, what an account sees of projects, and long answers that end with a membership."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.models import Project, ProjectRole, Role, User
from app.services.accounts import members
from app.web.deps import EngineerDep
from app.web.middleware import Frame
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.trained import trained

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
PASSWORD = "correct horse battery"
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]


@pytest.fixture
def maker(factory: Factory) -> User:
    return factory.user(Role.ENGINEER, "maker")


@pytest.fixture
def tone(factory: Factory, maker: User) -> Project:
    return factory.project(by=maker, slug="tone", open_to_everybody=False)


def put(engine: Engine, project: Project, user: User, role: ProjectRole) -> None:
    with write_session(engine) as session:
        here, person, by = session.merge(project), session.merge(user), session.get_one(User, project.created_by_id)
        members.put(session, project=here, user=person, role=role, by=by, acting=ProjectRole.ENGINEER)


def remove(engine: Engine, project: Project, user: User) -> None:
    with write_session(engine) as session:
        here, person, by = session.merge(project), session.merge(user), session.get_one(User, project.created_by_id)
        members.remove(session, project=here, user=person, by=by, acting=ProjectRole.ENGINEER)


def roles(engine: Engine, project: Project) -> dict[str, str]:
    with read_session(engine) as session:
        return {one.username: one.role.value for one in members.listing(session, project=project)}


def test_an_engineer_adds_changes_and_removes_people_on_the_page(
    engine: Engine, factory: Factory, sign_in: Sign, maker: User, tone: Project
) -> None:
    factory.user(username="ada")
    browser = sign_in(maker)
    page = browser.get("/projects/tone/members").text
    assert "Its members and admins." in page and "maker" in page
    assert browser.post("/projects/tone/members", data={"username": " Ada "}, headers=OWN).status_code == 303
    assert roles(engine, tone) == {"maker": "engineer", "ada": "evaluator"}
    assert "Ada is now evaluator here." in browser.get("/projects/tone/members").text
    browser.post("/projects/tone/members/ada/role", data={"role": "lead"}, headers=OWN)
    assert roles(engine, tone)["ada"] == "lead"
    browser.post("/projects/tone/members/ada/remove", headers=OWN)
    assert roles(engine, tone) == {"maker": "engineer"}


def test_what_can_not_be_done_says_why_and_keeps_the_form(
    factory: Factory, sign_in: Sign, maker: User, tone: Project
) -> None:
    browser = sign_in(maker)
    unknown = browser.post("/projects/tone/members", data={"username": "<b>nobody", "role": "lead"}, headers=OWN)
    assert unknown.status_code == 404
    assert "There is no account “&lt;b&gt;nobody”." in unknown.text and 'value="&lt;b&gt;nobody"' in unknown.text
    assert (
        browser.post("/projects/tone/members", data={"username": "maker", "role": "x"}, headers=OWN).status_code == 422
    )
    browser.post("/projects/tone/members/maker/remove", headers=OWN)
    assert "last engineer" in browser.get("/projects/tone/members").text


def test_a_lead_is_offered_what_a_lead_may_do(engine: Engine, factory: Factory, sign_in: Sign, tone: Project) -> None:
    lead = factory.user(username="lead")
    factory.user(username="ada")
    put(engine, tone, lead, ProjectRole.LEAD)
    browser = sign_in(lead)
    page = browser.get("/projects/tone/members").text
    assert "Open it to everybody" not in page and "maker/remove" not in page and "lead/remove" in page
    assert browser.post("/projects/tone/members", data={"username": "ada"}, headers=OWN).status_code == 303
    assert "ada/remove" in browser.get("/projects/tone/members").text
    refused = browser.post("/projects/tone/members", data={"username": "ada", "role": "engineer"}, headers=OWN)
    assert refused.status_code == 403
    assert browser.post("/projects/tone/members/everybody", data={"opened": "true"}, headers=OWN).status_code == 403
    assert roles(engine, tone) == {"maker": "engineer", "lead": "lead", "ada": "evaluator"}
    left = browser.post("/projects/tone/members/lead/remove", headers=OWN)
    assert left.headers["location"] == "/"
    assert browser.get("/projects/tone/members").status_code == 404


def test_a_lead_sees_data_but_neither_trains_nor_downloads(
    engine: Engine, settings: Settings, factory: Factory, sign_in: Sign, maker: User, tone: Project
) -> None:
    factory.comparisons(tone, 4)
    for _ in range(4):
        factory.judge(tone, maker)
    run, _ = trained(engine, settings, tone, maker)
    lead = factory.user(username="lead")
    put(engine, tone, lead, ProjectRole.LEAD)
    browser = sign_in(lead)
    data, snapshot = browser.get("/projects/tone/data").text, browser.get(f"/snapshots/{run.snapshot_id}").text
    assert "Freeze now" in data
    for page in (data, snapshot):
        assert not any(
            f'{part}"' in page for part in ("/train", "/runs", "/checkpoints", " download", f"/jobs/{run.job_id}")
        )
    browser = sign_in(maker)
    assert "/projects/tone/train" in browser.get("/projects/tone/data").text
    assert '/files/train.jsonl" download' in browser.get(f"/snapshots/{run.snapshot_id}").text


def test_a_project_is_opened_and_closed(
    engine: Engine, factory: Factory, sign_in: Sign, maker: User, tone: Project
) -> None:
    ada = factory.user(username="ada")
    assert sign_in(ada).get("/projects/tone/compare").status_code == 404
    sign_in(maker).post("/projects/tone/members/everybody", data={"opened": "true"}, headers=OWN)
    assert sign_in(ada).get("/projects/tone/compare").status_code == 200
    assert sign_in(ada).get("/projects/tone/data").status_code == 403
    sign_in(maker).post("/projects/tone/members/everybody", data={"opened": "false"}, headers=OWN)
    assert sign_in(ada).get("/projects/tone/compare").status_code == 404


def test_an_account_sees_its_projects_and_nothing_of_others(
    engine: Engine, factory: Factory, sign_in: Sign, api: Api, tone: Project
) -> None:
    ada = factory.user(username="ada")
    browser = sign_in(ada)
    home = browser.get("/").text
    assert "You are in no project yet" in home and 'data-copy="ada"' in home and "Tone" not in home
    assert "Tone" not in browser.get("/menu/projects").text
    assert browser.get("/api/v1/projects", headers=api(ada)).json() == []
    put(engine, tone, ada, ProjectRole.EVALUATOR)
    assert browser.get("/").headers["location"] == "/projects/tone/compare"
    put(engine, tone, ada, ProjectRole.LEAD)
    assert "/projects/tone/data" in browser.get("/").text
    (row,) = browser.get("/api/v1/projects", headers=api(ada)).json()
    assert (row["slug"], row["role"]) == ("tone", "lead")


def test_lists_of_runs_and_checkpoints_hold_those_of_ones_projects(
    engine: Engine, settings: Settings, factory: Factory, client: TestClient, api: Api, maker: User, tone: Project
) -> None:
    other_maker = factory.engineer()
    other = factory.project(by=other_maker, slug="other", open_to_everybody=False)
    snapshots = {}
    for project, user in ((tone, maker), (other, other_maker)):
        factory.comparisons(project, 4)
        for _ in range(4):
            factory.judge(project, user)
        run, _ = trained(engine, settings, project, user)
        snapshots[project.slug] = run.snapshot_id
    ada = factory.user(username="ada")
    put(engine, other, ada, ProjectRole.ENGINEER)
    put(engine, tone, ada, ProjectRole.LEAD)
    for user, slugs in ((maker, ["tone"]), (ada, ["other"]), (factory.admin(), ["other", "tone"])):
        token = api(user)
        for kind in ("jobs", "checkpoints"):
            listed = client.get(f"/api/v1/{kind}", headers=token).json()
            assert [item["project"] for item in listed["items"]] == slugs and listed["total"] == len(slugs)
    snapshot, token = snapshots["other"], api(maker)
    refused = client.post("/api/v1/jobs", json={"snapshot_id": snapshot, "base_model": "tiny"}, headers=token)
    missing = client.post("/api/v1/jobs", json={"snapshot_id": 999, "base_model": "tiny"}, headers=token)
    assert (refused.status_code, missing.status_code) == (404, 404)
    assert refused.json()["detail"].replace(str(snapshot), "999") == missing.json()["detail"]
    lead = client.post("/api/v1/jobs", json={"project": "tone", "base_model": "tiny"}, headers=api(ada))
    assert lead.status_code == 403
    assert client.get("/api/v1/jobs?project=other", headers=token).status_code == 404


def test_a_new_run_shows_no_settings_of_a_run_elsewhere(
    engine: Engine, settings: Settings, factory: Factory, sign_in: Sign, maker: User, tone: Project
) -> None:
    stranger = factory.engineer()
    hidden = factory.project(by=stranger, open_to_everybody=False)
    factory.comparisons(hidden, 4)
    for _ in range(4):
        factory.judge(hidden, stranger)
    run, _ = trained(engine, settings, hidden, stranger)
    browser = sign_in(maker)
    for kind, number in (("from", run.job_id), ("snapshot", run.snapshot_id)):
        hides = browser.get(f"/projects/tone/train?{kind}={number}")
        misses = browser.get(f"/projects/tone/train?{kind}=999")
        assert (hides.status_code, misses.status_code) == (404, 404), kind


def test_who_was_removed_can_not_judge_what_they_still_hold(
    engine: Engine, factory: Factory, sign_in: Sign, api: Api, tone: Project
) -> None:
    ada, other = factory.user(username="ada"), factory.project(slug="other")
    factory.comparison(tone)
    put(engine, tone, ada, ProjectRole.EVALUATOR)
    pair = factory.shown(tone, ada)
    assert pair
    browser, token = sign_in(ada), api(ada)
    remove(engine, tone, ada)
    said = {"token": pair.token, "choice": "left"}
    assert browser.post("/api/v1/judgments", json=said, headers=token).status_code == 404
    assert browser.post("/api/v1/release", json={"token": pair.token}, headers=token).status_code == 404
    browser.post(f"/projects/{other.slug}/compare", data=said, headers=OWN)  # through another project's desk
    put(engine, tone, ada, ProjectRole.EVALUATOR)
    assert browser.get("/api/v1/projects/tone/judgments", headers=token).json()["items"] == []
    assert browser.post("/api/v1/judgments", json=said, headers=token).status_code == 200


@pytest.mark.parametrize("media_type", ["text/event-stream", "application/octet-stream"])
def test_a_long_answer_ends_when_its_reader_leaves_the_project(
    engine: Engine,
    factory: Factory,
    sign_in: Sign,
    tone: Project,
    monkeypatch: pytest.MonkeyPatch,
    media_type: str,
) -> None:
    monkeypatch.setattr(Frame, "look_again_seconds", 0.0)
    ada = factory.user(username="ada")
    put(engine, tone, ada, ProjectRole.ENGINEER)
    browser = sign_in(ada)
    assert isinstance(browser.app, FastAPI)

    def endless(here: EngineerDep) -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            for number in range(1000):
                if number == 3:
                    put(engine, tone, ada, ProjectRole.LEAD)
                yield f"{number}\n".encode()

        return StreamingResponse(chunks(), media_type=media_type)

    browser.app.add_api_route("/projects/{slug}/endless", endless)
    assert browser.get("/projects/tone/endless").text == "0\n1\n2\n"


def test_members_over_the_api(
    engine: Engine, factory: Factory, client: TestClient, api: Api, maker: User, tone: Project
) -> None:
    factory.user(username="ada")
    token, url = api(maker), "/api/v1/projects/tone/members"
    added = client.put(f"{url}/ada", json={"role": "lead"}, headers=token)
    assert (added.status_code, added.json()["role"], added.json()["added_by"]) == (200, "lead", "maker")
    assert [row["username"] for row in client.get(url, headers=token).json()] == ["maker", "ada"]
    assert client.put(f"{url}/nobody", json={}, headers=token).status_code == 404
    assert client.put(f"{url}/ada", json={"role": "owner"}, headers=token).status_code == 422
    assert client.delete(f"{url}/ada", headers=token).status_code == 204
    assert client.delete(f"{url}/ada", headers=token).status_code == 404
    last = client.delete(f"{url}/maker", headers=token)
    assert last.status_code == 409 and "last engineer" in last.json()["detail"]


def test_only_engineers_open_a_project_over_the_api(
    engine: Engine, factory: Factory, client: TestClient, api: Api, maker: User, tone: Project
) -> None:
    lead = factory.user(username="lead")
    put(engine, tone, lead, ProjectRole.LEAD)
    opened = {"open_to_everybody": True}
    assert client.patch("/api/v1/projects/tone", json=opened, headers=api(lead)).status_code == 403
    assert client.patch("/api/v1/projects/tone", json={"daily_goal": 5}, headers=api(lead)).status_code == 200
    assert client.patch("/api/v1/projects/tone", json=opened, headers=api(maker)).json()["open_to_everybody"] is True
    made = client.post("/api/v1/projects", json={"slug": "new-one", "name": "New"}, headers=api(maker)).json()
    assert made["open_to_everybody"] is False


def test_a_download_of_a_project_needs_an_engineer(
    engine: Engine, settings: Settings, factory: Factory, client: TestClient, api: Api, maker: User, tone: Project
) -> None:
    factory.comparisons(tone, 4)
    for _ in range(4):
        factory.judge(tone, maker)
    run, checkpoint = trained(engine, settings, tone, maker)
    lead = factory.user(username="lead")
    put(engine, tone, lead, ProjectRole.LEAD)
    for path in (f"snapshots/{run.snapshot_id}/files/train.jsonl", f"checkpoints/{checkpoint.id}/archive.tar"):
        codes = [client.get(f"/api/v1/{path}", headers=api(user)).status_code for user in (factory.user(), lead, maker)]
        assert codes == [404, 403, 200]


def test_a_key_of_elsewhere_tells_nothing(
    engine: Engine, settings: Settings, factory: Factory, client: TestClient, api: Api, maker: User, tone: Project
) -> None:
    prepare_model(settings)
    admin = factory.admin()
    elsewhere = factory.project(by=admin, slug="elsewhere", open_to_everybody=False)
    for project, user in ((tone, maker), (elsewhere, admin)):
        factory.comparisons(project, 4)
        for _ in range(4):
            factory.judge(project, user)
    put(engine, elsewhere, maker, ProjectRole.ENGINEER)
    token = api(maker) | {"Idempotency-Key": "one"}
    made = client.post("/api/v1/jobs", json={"project": "elsewhere", "base_model": "tiny"}, headers=token)
    assert made.status_code == 201
    remove(engine, elsewhere, maker)
    again = client.post("/api/v1/jobs", json={"project": "tone", "base_model": "tiny"}, headers=token)
    assert again.status_code == 409 and "elsewhere" not in again.text
