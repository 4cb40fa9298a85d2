"""Passkeys, as people add them and sign in by them. The browser's dialogue is `tests/authenticator.py`."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import Engine, update
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.main import create_app
from app.models import User, UserSession
from app.services.accounts import links
from tests.authenticator import PLACE, Authenticator, add_passkey
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
PASSWORD = "correct horse battery"
ASK = "/sign-in/passkey/options"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PLACE})


@pytest.fixture
def client(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url=PLACE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def stranger(client: TestClient) -> TestClient:
    """Another browser."""
    return TestClient(client.app, base_url=PLACE, follow_redirects=False)


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], ada: User) -> TestClient:
    return sign_in(ada)


def add(browser: TestClient, name: str = "laptop", **form: str) -> tuple[Authenticator, httpx.Response]:
    """A device, and the page after its passkey was sent."""
    device = Authenticator()
    asked = browser.post("/account/passkeys/options", data={"name": name, **form}, headers=OWN)
    assert asked.status_code == 200, asked.text
    return device, browser.post(
        "/account/passkeys", data={"name": name, "passkey": device.create(asked.json())}, headers=OWN
    )


def give(browser: TestClient, device: Authenticator, to: str = "/sign-in/passkey", **form: str) -> httpx.Response:
    answer = device.get(browser.post(ASK, headers=OWN).json())
    return browser.post(to, data={"passkey": answer, **form}, headers=OWN)


def age(engine: Engine) -> None:
    """Every session began an hour ago."""
    with engine.begin() as connection:
        connection.execute(update(UserSession).values(created_at=datetime.now(UTC) - timedelta(hours=1)))


def test_a_passkey_is_added_signs_in_and_is_removed(browser: TestClient, stranger: TestClient) -> None:
    assert "No passkeys" not in browser.get("/account").text
    device, added = add(browser)
    codes = re.findall(r"<li><code>([a-z0-9-]{14})</code>", added.text)
    assert added.status_code == 200 and len(codes) == 10 and added.headers["cache-control"] == "no-store"
    _, second = add(browser, "<b>phone</b>")
    assert (second.status_code, second.headers["location"]) == (303, "/account#passkeys")
    page = browser.get("/account").text
    assert "laptop" in page and "&lt;b&gt;phone" in page and "10 recovery codes left" in page

    asked = stranger.post(ASK, headers=OWN)
    cookie = set(asked.headers["set-cookie"].split("; "))
    assert asked.headers["set-cookie"].startswith("__Host-prefloop_passkey_443=")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Max-Age=300", "Path=/"} <= cookie
    entered = give(stranger, device, next="/account")
    assert (entered.status_code, entered.headers["location"]) == (303, "/account")
    assert stranger.get("/account").status_code == 200
    assert give(stranger, device, next="//evil.example").headers["location"] == "/"

    for number in re.findall(r"/account/passkeys/(\d+)/remove", page):
        gone = browser.post(f"/account/passkeys/{number}/remove", headers=OWN)
        assert gone.headers["location"] == "/account#passkeys"
    assert "was removed" in browser.get("/account").text
    refused = give(stranger, device)
    assert refused.status_code == 401 and "known here" in refused.text and "set-cookie" not in refused.headers
    assert stranger.post("/sign-in", data={"username": "ada", "password": PASSWORD}, headers=OWN).status_code == 303


def test_after_a_password_or_a_link_a_passkey_is_asked_for(
    browser: TestClient, stranger: TestClient, engine: Engine, ada: User
) -> None:
    device, added = add(browser)
    [code, *_] = re.findall(r"<li><code>([a-z0-9-]{14})</code>", added.text)
    form = {"username": "ada", "password": PASSWORD, "next": "/account"}
    asked = stranger.post("/sign-in", data=form, headers=OWN)
    assert asked.status_code == 200 and "Use a passkey" in asked.text and "Recovery code" in asked.text
    pending = {"pending": re.search(r'name="pending" value="([^"]+)"', asked.text)[1], "next": "/account"}
    wrong = give(stranger, Authenticator(), "/sign-in/code", **pending)
    assert wrong.status_code == 401 and "Use a passkey" in wrong.text and pending["pending"] in wrong.text
    assert stranger.get("/account").status_code == 303
    assert give(stranger, device, "/sign-in/code", **pending).headers["location"] == "/account"

    with write_session(engine) as session:
        token = links.create_sign_in(session, user=session.get_one(User, ada.id))
    stranger.cookies.clear()
    page = stranger.get(f"/link/{token}", headers=TYPED)
    assert page.status_code == 200 and "Use a passkey" in page.text
    assert stranger.post(f"/link/{token}", headers=OWN).status_code == 401
    assert give(stranger, Authenticator(), f"/link/{token}").status_code == 401
    assert give(stranger, device, f"/link/{token}").status_code == 303
    assert stranger.get("/account").status_code == 200
    assert stranger.post("/sign-in/code", data=pending | {"code": code}, headers=OWN).status_code == 303


def test_a_stolen_session_neither_adds_nor_removes_a_passkey(browser: TestClient, engine: Engine) -> None:
    add(browser)
    age(engine)
    asked = browser.post(
        "/account/passkeys/options", data={"name": "thief"}, headers=OWN | {"Accept": "application/json"}
    )
    assert asked.status_code == 422 and "needs your password" in asked.json()["detail"]
    made = browser.post("/account/passkeys", data={"name": "thief", "passkey": "{}"}, headers=OWN)
    assert made.headers["location"] == "/account#passkeys" and "took too long" in browser.get("/account").text
    number = re.search(r"/account/passkeys/(\d+)/remove", browser.get("/account").text)[1]
    browser.post(f"/account/passkeys/{number}/remove", headers=OWN)
    assert "needs your password" in browser.get("/account").text
    browser.post(f"/account/passkeys/{number}/remove", data={"password": "wrong"}, headers=OWN)
    page = browser.get("/account").text
    assert "laptop" in page and "thief" not in page
    add(browser, "phone", password=PASSWORD)
    browser.post(f"/account/passkeys/{number}/remove", data={"password": PASSWORD}, headers=OWN)
    page = browser.get("/account").text
    assert "phone" in page and f"/account/passkeys/{number}/remove" not in page


def test_what_one_browser_was_asked_no_other_answers(
    browser: TestClient, stranger: TestClient, engine: Engine, factory: Factory, settings: Settings, ada: User
) -> None:
    device = add_passkey(engine, settings, ada, counts=False)
    answer = device.get(browser.post(ASK, headers=OWN).json())
    for _ in range(2):  # without a cookie, then with one of its own
        refused = stranger.post("/sign-in/passkey", data={"passkey": answer}, headers=OWN)
        assert refused.status_code == 401 and "set-cookie" not in refused.headers
        stranger.post(ASK, headers=OWN)
    assert browser.post("/sign-in/passkey", data={"passkey": answer}, headers=OWN).status_code == 303
    assert browser.post("/sign-in/passkey", data={"passkey": answer}, headers=OWN).status_code == 401
    mallorys = Authenticator()
    asked = browser.post("/account/passkeys/options", data={"name": "x"}, headers=OWN).json()
    made = {"name": "x", "passkey": mallorys.create(asked)}
    with write_session(engine) as session:
        token = links.create_sign_in(session, user=session.get_one(User, factory.user(username="mallory").id))
    assert stranger.get(f"/link/{token}", headers=TYPED).status_code == 303
    stranger.post("/account/passkeys", data=made, headers=OWN)
    assert "took too long" in stranger.get("/account").text


def test_another_site_can_neither_ask_nor_answer(browser: TestClient) -> None:
    for path in (
        ASK,
        "/sign-in/passkey",
        "/account/passkeys/options",
        "/account/passkeys",
        "/account/passkeys/1/remove",
    ):
        assert browser.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_role_that_must_have_a_second_factor_adds_a_passkey_first(
    settings: Settings, engine: Engine, factory: Factory
) -> None:
    strict = settings.model_copy(update={"second_factor_roles": "engineer"})
    client = TestClient(create_app(strict), base_url=PLACE, follow_redirects=False)
    factory.user("engineer", username="ada", password=PASSWORD)
    client.post("/sign-in", data={"username": "ada", "password": PASSWORD}, headers=OWN)
    assert client.get("/projects").headers["location"] == "/account#second-factor"
    device, _ = add(client)
    assert client.get("/projects").status_code == 200
    assert client.post("/account/passkeys/1/remove", headers=OWN).status_code == 409
    other = TestClient(client.app, base_url=PLACE, follow_redirects=False)
    assert give(other, device).status_code == 303
    assert other.get("/projects").status_code == 200


def test_under_a_path_forms_and_scripts_know_it(settings: Settings, engine: Engine, ada: User) -> None:
    under = settings.model_copy(update={"public_url": f"{PLACE}/team"})
    client = TestClient(create_app(under), base_url=PLACE, follow_redirects=False)
    page = client.get("/team/sign-in").text
    assert 'data-passkey-options="/team/sign-in/passkey/options"' in page
    assert f'data-passkey-place="{PLACE}/team"' in page and 'action="/team/sign-in/passkey"' in page
    device = add_passkey(engine, settings, ada)
    asked = client.post(f"/team{ASK}", headers=OWN)
    assert (
        asked.headers["set-cookie"].startswith("__Secure-prefloop_passkey_443=")
        and "Path=/team" in asked.headers["set-cookie"]
    )
    form = {"passkey": device.get(asked.json()), "next": "/team/account"}
    entered = client.post("/team/sign-in/passkey", data=form, headers=OWN)
    assert (entered.status_code, entered.headers["location"]) == (303, "/team/account")
    assert 'data-passkey-options="/team/account/passkeys/options"' in client.get("/team/account").text


def test_where_browsers_keep_no_passkeys_none_is_offered(settings: Settings, engine: Engine, ada: User) -> None:
    plain = settings.model_copy(update={"public_url": "http://box.example"})
    client = TestClient(create_app(plain), base_url="http://box.example", follow_redirects=False)
    assert "data-passkey" not in client.get("/sign-in").text
    refused = client.post(ASK, headers=OWN | {"Accept": "application/json"})
    assert refused.status_code == 409 and "PREFLOOP_PUBLIC_URL=https" in refused.json()["next_step"]
    client.post("/sign-in", data={"username": "ada", "password": PASSWORD}, headers=OWN)
    page = client.get("/account").text
    assert "it needs a name and TLS" in page and "data-passkey" not in page
