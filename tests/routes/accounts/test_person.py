"""One person's page, for admins, and the same over the API and on the command line."""

import re
from collections.abc import Callable

import pyotp
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import read_session, write_session
from app.models import User
from app.services.accounts import second_factor, sessions, tokens
from tests.authenticator import add_passkey
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def ada(factory: Factory, engine: Engine, settings: Settings) -> User:
    """Signed in twice, with two tokens, an authenticator app and two passkeys."""
    row = factory.user(username="ada")
    with write_session(engine) as session:
        user = session.get_one(User, row.id)
        for place in ("192.0.2.1", "192.0.2.2"):
            sessions.start(session, user=user, address=place)
            tokens.create(session, user=user, name=f"script at {place}")
        app = pyotp.TOTP(second_factor.begin(session, user=user).secret)
        second_factor.confirm(session, user=user, code=app.now())
    for name in ("laptop", "phone"):
        add_passkey(engine, settings, row, name=name)
    return row


def state(engine: Engine, user: User) -> tuple[int, int, bool]:
    """How many sessions and tokens live, and whether there is a second factor."""
    with read_session(engine) as session:
        row = session.get_one(User, user.id)
        return len(sessions.listing(session, user=row)), len(tokens.listing(session, user=row)), row.has_second_factor


def test_an_admin_sees_and_ends_each(
    engine: Engine, ada: User, factory: Factory, sign_in: Callable[[User], TestClient]
) -> None:
    browser = sign_in(factory.admin())
    assert 'href="/people/ada"' in browser.get("/people").text
    page = browser.get("/people/ada").text
    assert "192.0.2.1" in page and "script at 192.0.2.2" in page and "10 recovery codes left" in page
    number = re.search(r"/people/ada/sessions/(\d+)/revoke", page)[1]
    assert browser.post(f"/people/ada/sessions/{number}/revoke", headers=OWN).status_code == 303
    number = re.search(r"/people/ada/tokens/(\d+)/revoke", page)[1]
    assert browser.post(f"/people/ada/tokens/{number}/revoke", headers=OWN).status_code == 303
    assert state(engine, ada) == (1, 1, True)
    assert "laptop" in page and "phone" in page
    number = re.search(r"/people/ada/passkeys/(\d+)/remove", page)[1]
    assert browser.post(f"/people/ada/passkeys/{number}/remove", headers=OWN).status_code == 303
    assert browser.post(f"/people/ada/passkeys/{number}/remove", headers=OWN).status_code == 404
    page = browser.get("/people/ada").text
    assert "laptop" in page and f"/passkeys/{number}/remove" not in page
    browser.post("/people/ada/sessions/revoke-all", headers=OWN)
    browser.post("/people/ada/second-factor/reset", headers=OWN)
    assert state(engine, ada) == (0, 1, False)
    assert "No passkeys." in browser.get("/people/ada").text
    other = factory.user(username="bob")
    with write_session(engine) as session:
        row, _ = tokens.create(session, user=session.get_one(User, other.id), name="bob's")
    assert browser.post(f"/people/ada/tokens/{row.id}/revoke", headers=OWN).status_code == 404
    assert browser.get("/people/nobody").status_code == 404


def test_the_same_over_the_api(
    client: TestClient, engine: Engine, ada: User, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    admin = api(factory.admin())
    at = "/api/v1/users/ada"
    [last, first] = client.get(f"{at}/sessions", headers=admin).json()
    assert {last["address"], first["address"]} == {"192.0.2.1", "192.0.2.2"} and "token_hash" not in last
    assert client.delete(f"{at}/sessions/{last['id']}", headers=admin).status_code == 204
    [token, _] = client.get(f"{at}/tokens", headers=admin).json()
    assert client.delete(f"{at}/tokens/{token['id']}", headers=admin).status_code == 204
    assert state(engine, ada) == (1, 1, True)
    [phone, laptop] = client.get(f"{at}/passkeys", headers=admin).json()
    assert (phone["name"], laptop["name"], laptop["alone"]) == ("phone", "laptop", True) and "public_key" not in laptop
    assert client.delete(f"{at}/passkeys/{phone['id']}", headers=admin).status_code == 204
    assert client.get(f"{at}/passkeys", headers=admin).json() == [laptop]
    assert client.delete(f"{at}/sessions", headers=admin).status_code == 204
    assert client.delete(f"{at}/second-factor", headers=admin).status_code == 204
    assert state(engine, ada) == (0, 1, False)
    for path in ("sessions", "tokens", "passkeys"):
        assert client.get(f"/api/v1/users/nobody/{path}", headers=admin).status_code == 404


def test_the_same_on_the_command_line(engine: Engine, ada: User) -> None:
    def prefloop(*words: str) -> str:
        done = CliRunner().invoke(cli, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    assert "192.0.2.1" in prefloop("user", "sessions", "ada")
    assert "2 browsers signed out" in prefloop("user", "sign-out", "ada")
    assert "nowhere" in prefloop("user", "sessions", "ada")
    assert "laptop" in prefloop("user", "passkeys", "ada")
    assert "is off" in prefloop("user", "reset-second-factor", "ada")
    assert "no passkeys" in prefloop("user", "passkeys", "ada")
    assert state(engine, ada) == (0, 2, False)
    prefloop("token", "create", "forever", "--user", "ada", "--never-ends")
    prefloop("token", "create", "short", "--user", "ada", "--days", "7")
    with read_session(engine) as session:
        short, forever = tokens.listing(session, user=session.get_one(User, ada.id))[:2]
    assert forever.expires_at is None
    assert short.expires_at is not None and (short.expires_at - short.created_at).days == 7
