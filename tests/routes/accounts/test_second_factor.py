"""The second factor, as people set it up and sign in with it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.main import create_app
from app.models import User, UserSession
from app.services.accounts import links, tokens
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
PASSWORD = "correct horse battery"
FORM = {"username": "ada", "password": PASSWORD}


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], ada: User) -> TestClient:
    return sign_in(ada)


def set_up(browser: TestClient, **form: str) -> tuple[pyotp.TOTP, list[str]]:
    """Turns it on, with the code of half a minute ago so that the present one can still be used."""
    page = browser.post("/account/second-factor", data=form, headers=OWN)
    assert page.status_code == 200, page.text
    assert '<img class="qr" src="data:image/svg+xml' in page.text
    secret = re.search(r'data-copy="([A-Z2-7]{32})"', page.text)
    assert secret
    app = pyotp.TOTP(secret[1])
    wrong = browser.post("/account/second-factor/confirm", data={"code": "000000"}, headers=OWN)
    assert wrong.status_code == 422 and secret[1] in wrong.text
    then = datetime.now(UTC) - timedelta(seconds=30)
    done = browser.post("/account/second-factor/confirm", data={"code": app.at(then)}, headers=OWN)
    assert done.headers["cache-control"] == "no-store"
    codes = re.findall(r"<li><code>([a-z0-9-]{14})</code>", done.text)
    assert len(codes) == 10
    return app, codes


def age(engine: Engine) -> None:
    """Every session began an hour ago."""
    with engine.begin() as connection:
        connection.execute(update(UserSession).values(created_at=datetime.now(UTC) - timedelta(hours=1)))


def test_signing_in_asks_for_a_code_and_then_goes_where_one_was_going(browser: TestClient) -> None:
    app, codes = set_up(browser)
    assert "On since" in browser.get("/account").text
    other = TestClient(browser.app, follow_redirects=False)
    asked = other.post("/sign-in", data=FORM | {"next": "/account"}, headers=OWN)
    assert asked.status_code == 200 and "set-cookie" not in asked.headers
    pending = re.search(r'name="pending" value="([^"]+)"', asked.text)
    assert pending
    form = {"pending": pending[1], "next": "/account"}
    wrong = other.post("/sign-in/code", data=form | {"code": "000000"}, headers=OWN)
    assert wrong.status_code == 401 and pending[1] in wrong.text and "set-cookie" not in wrong.headers
    assert other.get("/account").status_code == 303
    right = other.post("/sign-in/code", data=form | {"code": app.now()}, headers=OWN)
    assert (right.status_code, right.headers["location"]) == (303, "/account")
    assert other.get("/account").status_code == 200
    again = other.post("/sign-in/code", data=form | {"code": codes[0], "next": "//evil.example"}, headers=OWN)
    assert again.headers["location"] == "/"


def test_a_sign_in_link_asks_for_a_code_too(browser: TestClient, engine: Engine, ada: User) -> None:
    app, _ = set_up(browser)
    with write_session(engine) as session:
        token = links.create_sign_in(session, user=session.merge(ada))
    other = TestClient(browser.app, follow_redirects=False)
    page = other.get(f"/link/{token}", headers=TYPED)
    assert page.status_code == 200 and 'name="code"' in page.text
    for code in ("", "000000"):
        assert other.post(f"/link/{token}", data={"code": code}, headers=OWN).status_code == 401
    assert other.post(f"/link/{token}", data={"code": app.now()}, headers=OWN).status_code == 303
    assert other.get("/account").status_code == 200


def test_a_stolen_session_neither_sets_it_up_nor_turns_it_off(browser: TestClient, engine: Engine) -> None:
    age(engine)
    assert 'name="password"' in browser.get("/account").text
    for path in ("", "/codes", "/remove"):
        reply = browser.post(f"/account/second-factor{path}", headers=OWN)
        assert (reply.status_code, reply.headers["location"]) == (303, "/account#second-factor")
        assert "needs your password" in browser.get("/account").text
    set_up(browser, password=PASSWORD)
    assert browser.post("/account/second-factor/remove", data={"password": "wrong"}, headers=OWN).status_code == 303
    assert "On since" in browser.get("/account").text
    codes = browser.post("/account/second-factor/codes", data={"password": PASSWORD}, headers=OWN)
    assert len(re.findall(r"<li><code>", codes.text)) == 10
    browser.post("/account/second-factor/remove", data={"password": PASSWORD}, headers=OWN)
    assert "On since" not in browser.get("/account").text


def test_a_stolen_session_mints_no_token(browser: TestClient, engine: Engine) -> None:
    age(engine)
    refused = browser.post("/account/tokens", data={"name": "x"}, headers=OWN)
    assert refused.status_code == 422 and "plf_" not in refused.text and "needs your password" in refused.text
    made = browser.post("/account/tokens", data={"name": "x", "password": PASSWORD}, headers=OWN)
    assert made.status_code == 200 and "plf_" in made.text


def test_a_role_that_must_have_it_sees_its_account_alone(settings: Settings, engine: Engine, factory: Factory) -> None:
    strict = settings.model_copy(update={"second_factor_roles": "engineer"})
    client = TestClient(create_app(strict), follow_redirects=False)
    project = factory.project()
    factory.user(username="eve", password=PASSWORD)
    engineer = factory.user("engineer", username="ada", password=PASSWORD)
    with write_session(engine) as session:
        _, secret = tokens.create(session, user=session.merge(engineer), name="x")
    client.post("/sign-in", data=FORM, headers=OWN)
    for path in ("/", "/projects", f"/projects/{project.slug}/data", f"/projects/{project.slug}/compare"):
        reply = client.get(path)
        assert (reply.status_code, reply.headers["location"]) == (303, "/account#second-factor")
    for path in (
        "/account/tokens",
        f"/projects/{project.slug}/snapshots",
        f"/projects/{project.slug}/import",
        f"/projects/{project.slug}/compare/undo",
    ):
        assert client.post(path, data={"name": "x"}, headers=OWN).headers["location"] == "/account#second-factor"
    assert "must have one" in client.get("/account").text
    set_up(client)
    assert client.get(f"/projects/{project.slug}/data").status_code == 200
    assert client.post("/account/second-factor/remove", headers=OWN).status_code == 409
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    other = TestClient(client.app, follow_redirects=False)
    other.post("/sign-in", data=FORM | {"username": "eve"}, headers=OWN)
    assert other.get("/projects").status_code == 200
