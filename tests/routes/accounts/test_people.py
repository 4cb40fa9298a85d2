"""People and the audit trail, as an admin uses them."""

import re
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.db import read_session, write_session
from app.models import Role, User
from app.services.accounts import audit, users
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture
def boss(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.user(Role.ADMIN, "boss"))


def shown_link(page: str) -> str:
    link = re.search(r'data-copy="http://testserver(/link/[^"]+)"', page)
    assert link, page
    return link[1]


def test_an_invitation_goes_from_the_page_to_an_account(boss: TestClient) -> None:
    page = boss.post("/people/invitations", data={"role": "engineer", "note": "Grace"}, headers=OWN)
    assert "Invitation as engineer for Grace" in page.text
    link = shown_link(page.text)
    assert link not in boss.get("/people").text  # shown once
    grace = TestClient(boss.app, follow_redirects=False)
    form = grace.get(link, headers=TYPED)
    assert "invited as an engineer" in form.text
    action = re.search(r'action="(/invitation/[^"]+)"', form.text)
    assert action
    grace.post(
        action[1], data={"username": "grace", "display_name": "Grace", "password": "correct horse battery"}, headers=OWN
    )
    assert "Grace" in boss.get("/people").text
    assert "Open invitations" not in boss.get("/people").text


def test_a_withdrawn_invitation_opens_nothing(boss: TestClient) -> None:
    page = boss.post("/people/invitations", data={"role": "admin"}, headers=OWN).text
    number = re.search(r"/people/invitations/(\d+)/withdraw", page)
    assert number
    assert boss.post(f"/people/invitations/{number[1]}/withdraw", headers=OWN).status_code == 303
    assert TestClient(boss.app).get(shown_link(page), headers=TYPED).status_code == 410


def test_a_new_link_lets_somebody_in_who_lost_theirs(boss: TestClient, factory: Factory) -> None:
    factory.user(username="ada")
    link = shown_link(boss.post("/people/ada/link", headers=OWN).text)
    ada = TestClient(boss.app, follow_redirects=False)
    assert ada.get(link, headers=TYPED).status_code == 303
    assert "Ada" in ada.get("/account").text


def test_roles_change_and_people_go_and_come_back(boss: TestClient, factory: Factory, engine: Engine) -> None:
    factory.user(username="ada+test@example.org")
    at = "/people/ada%2Btest%40example.org"
    assert boss.post(f"{at}/role", data={"role": "engineer"}, headers=OWN).status_code == 303
    assert boss.post(f"{at}/active", data={"active": "false"}, headers=OWN).status_code == 303
    with read_session(engine) as session:
        ada = users.get(session, "ada+test@example.org")
        assert (ada.role, ada.active) == (Role.ENGINEER, False)
    assert boss.post(f"{at}/link", headers=OWN).status_code == 409
    assert boss.post(f"{at}/active", data={"active": "true"}, headers=OWN).status_code == 303
    assert boss.post(f"{at}/role", data={"role": "root"}, headers=OWN).status_code == 422
    assert boss.post("/people/nobody/role", data={"role": "engineer"}, headers=OWN).status_code == 404


def test_the_last_admin_cannot_leave_the_house(boss: TestClient) -> None:
    for path, form in (("/people/boss/role", {"role": "engineer"}), ("/people/boss/active", {"active": "false"})):
        reply = boss.post(path, data=form, headers=OWN)
        assert reply.status_code == 409
        assert "last admin" in reply.text
    assert boss.get("/people").status_code == 200


def test_demo_people_are_marked(boss: TestClient, engine: Engine) -> None:
    with write_session(engine) as session:
        users.create(session, username="demo-1", display_name="Demo 1", role=Role.EVALUATOR, is_demo=True)
    row = boss.get("/people").text.split("Demo 1")[1].split("</tr>")[0]
    assert "badge warn" in row


def test_the_trail_is_filtered_and_paged(boss: TestClient, engine: Engine, factory: Factory) -> None:
    ada = factory.user(username="ada")
    with write_session(engine) as session:
        for number in range(60):
            audit.record(session, by=ada, action="job.cancel", target=f"job {number}", reason="<b>bold</b>")
    first = boss.get("/audit", params={"action": "job"}).text
    assert "60 in all" in first
    assert "job 59" in first
    assert "job 9<" not in first
    assert "&lt;b&gt;bold" in first
    second = boss.get("/audit", params={"action": "job", "page": 2}).text
    assert "job 9<" in second
    assert "job 59" not in second
    one = boss.get("/audit", params={"who": "ADA", "target": "Job 42"}).text
    assert "1 in all" in one
    assert "Nothing matches" in boss.get("/audit", params={"who": "nobody"}).text
    assert "Nothing matches" in boss.get("/audit", params={"target": "%"}).text
    assert boss.get("/audit", params={"page": "-1"}).status_code == 200
    assert boss.get("/audit", params={"page": "9" * 30}).status_code == 200


def test_an_invitation_names_projects(boss: TestClient, factory: Factory) -> None:
    factory.project(slug="tone", open_to_everybody=False)
    form = {"role": "evaluator", "project": ["tone"], "project_role": "lead"}
    page = boss.post("/people/invitations", data=form, headers=OWN).text
    link = shown_link(page)
    grace = TestClient(boss.app, follow_redirects=False)
    shown = grace.get(link, headers=TYPED).text
    assert "You will be lead in “Tone”." in shown
    action = re.search(r'action="(/invitation/[^"]+)"', shown)
    assert action
    grace.post(action[1], data={"username": "grace", "password": "correct horse battery"}, headers=OWN)
    assert grace.get("/projects/tone/data").status_code == 200
    unknown = boss.post("/people/invitations", data=form | {"project": ["nowhere"]}, headers=OWN)
    assert unknown.status_code == 404
