"""One's own account, on the page."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update
from starlette.testclient import TestClient

from app.db import read_session
from app.models import ApiToken, User, UserSession
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
PASSWORD = "correct horse battery"
NEW = "another horse battery"


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], ada: User) -> TestClient:
    return sign_in(ada)


def other_browser(client: TestClient, password: str = PASSWORD) -> TestClient:
    other = TestClient(client.app, follow_redirects=False, headers={"User-Agent": "Other Browser"})
    assert other.post("/sign-in", data={"username": "ada", "password": password}, headers=OWN).status_code == 303
    return other


def test_a_token_is_shown_once_works_and_can_be_revoked(browser: TestClient, engine: Engine) -> None:
    page = browser.post("/account/tokens", data={"name": "nightly", "days": ""}, headers=OWN)
    assert page.headers["cache-control"] == "no-store"
    token = re.search(r'data-copy="(plf_[^"]+)"', page.text)
    assert token
    header = {"Authorization": f"Bearer {token[1]}"}
    assert browser.get("/api/v1/me", headers=header).json()["username"] == "ada"
    again = browser.get("/account").text
    assert token[1] not in again
    assert "nightly" in again
    with read_session(engine) as session:
        number = session.scalars(select(ApiToken.id)).one()
    assert browser.post(f"/account/tokens/{number}/revoke", headers=OWN).status_code == 303
    assert browser.get("/api/v1/me", headers=header).status_code == 401


def test_a_token_for_a_time_says_when_it_ends(browser: TestClient) -> None:
    assert "in 6 d" in browser.post("/account/tokens", data={"name": "week", "days": "7"}, headers=OWN).text
    assert browser.post("/account/tokens", data={"name": "", "days": "7"}, headers=OWN).status_code == 422
    assert browser.post("/account/tokens", data={"name": "x", "days": "99999"}, headers=OWN).status_code == 422


def test_a_name_is_text_and_never_markup(browser: TestClient) -> None:
    name = "<script>alert(1)</script>"
    assert "&lt;script&gt;" in browser.post("/account/tokens", data={"name": name}, headers=OWN).text
    assert name not in browser.get("/account").text


def test_nobody_revokes_anothers_token_or_session(
    browser: TestClient, sign_in: Callable[[User], TestClient], factory: Factory, engine: Engine
) -> None:
    browser.post("/account/tokens", data={"name": "ada's"}, headers=OWN)
    with read_session(engine) as session:
        token, mine = session.scalars(select(ApiToken.id)).one(), session.scalars(select(UserSession.id)).one()
    eve = sign_in(factory.admin())
    assert eve.post(f"/account/tokens/{token}/revoke", headers=OWN).status_code == 404
    assert eve.post(f"/account/sessions/{mine}/revoke", headers=OWN).status_code == 404
    with read_session(engine) as session:
        assert session.get_one(ApiToken, token).revoked_at is None
        assert session.get_one(UserSession, mine).revoked_at is None


def test_a_new_password_signs_other_browsers_out(browser: TestClient) -> None:
    thief = other_browser(browser)
    reply = browser.post("/account/password", data={"current": PASSWORD, "password": NEW}, headers=OWN)
    assert reply.status_code == 303
    assert thief.get("/account").status_code == 303
    assert "Your other browsers and your tokens were ended" in browser.get("/account").text
    assert other_browser(browser, NEW).get("/account").status_code == 200


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"current": "wrong", "password": NEW}, "current password is wrong"),
        ({"password": NEW}, "current password is wrong"),
        ({"current": PASSWORD, "password": "short"}, "10 to 200 characters"),
    ],
)
def test_a_refused_password_changes_nothing(browser: TestClient, form: dict[str, str], words: str) -> None:
    reply = browser.post("/account/password", data=form, headers=OWN)
    assert reply.status_code == 422
    assert words in reply.text
    assert other_browser(browser).get("/account").status_code == 200


def test_a_stolen_session_cannot_try_passwords_for_long(browser: TestClient) -> None:
    statuses = [
        browser.post("/account/password", data={"current": f"guess {n}", "password": NEW}, headers=OWN).status_code
        for n in range(11)
    ]
    assert statuses == [422] * 10 + [429]
    assert (
        browser.post("/account/password", data={"current": PASSWORD, "password": NEW}, headers=OWN).status_code == 429
    )


def test_other_browsers_are_listed_and_ended(browser: TestClient) -> None:
    other, third = other_browser(browser), other_browser(browser)
    page = browser.get("/account").text
    numbers = re.findall(r"/account/sessions/(\d+)/revoke", page)
    assert len(numbers) == 2
    assert browser.post(f"/account/sessions/{numbers[0]}/revoke", headers=OWN).status_code == 303
    assert sorted(one.get("/account").status_code for one in (other, third)) == [200, 303]
    assert browser.post("/account/sessions/revoke-others", headers=OWN).status_code == 303
    assert [one.get("/account").status_code for one in (other, third, browser)] == [303, 303, 200]


def test_use_is_noted_after_the_reply_and_not_each_time(browser: TestClient, engine: Engine) -> None:
    def last_use() -> datetime:
        with read_session(engine) as session:
            return session.scalars(select(UserSession.last_used_at)).one()

    first = last_use()
    browser.get("/account")
    assert last_use() == first
    with engine.begin() as connection:
        connection.execute(update(UserSession).values(last_used_at=datetime.now(UTC) - timedelta(hours=1)))
    old = last_use()
    browser.get("/account")
    assert last_use() > old


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1 Version/18.0 Mobile Safari/604.1",
            "Safari on iPhone",
        ),
        ("curl/8.5", "curl/8.5"),
        ("", "unknown"),
    ],
)
def test_a_browser_is_named_as_people_do(browser: TestClient, sent: str, shown: str) -> None:
    TestClient(browser.app, headers={"User-Agent": sent}).post(
        "/sign-in", data={"username": "ada", "password": PASSWORD}, headers=OWN
    )
    assert f">{shown}</span>" in browser.get("/account").text


def test_a_token_is_narrowed_on_the_page(browser: TestClient, factory: Factory) -> None:
    factory.project(slug="tone")
    factory.project(slug="hidden", open_to_everybody=False)
    form = {"name": "nightly", "days": "", "project": ["tone"], "only_reads": "true"}
    page = browser.post("/account/tokens", data=form, headers=OWN)
    token = re.search(r'data-copy="(plf_[^"]+)"', page.text)
    assert token and "only reads" in page.text and 'value="hidden"' not in page.text
    header = {"Authorization": f"Bearer {token[1]}"}
    assert browser.get("/api/v1/projects/tone", headers=header).status_code == 200
    assert browser.post("/api/v1/projects/tone/next", headers=header).status_code == 403
    assert browser.get("/api/v1/tokens", headers=header).status_code == 403
    refused = browser.post("/account/tokens", data=form | {"project": ["hidden"]}, headers=OWN)
    assert refused.status_code == 404 and "There is no project “hidden”." in refused.text
