"""Signing in and out, as people and as attackers do it."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.main import create_app
from app.models import Role, User, UserSession
from app.services.accounts import audit, links, users
from tests.factory import Factory

# Rows and races are tested on both databases in tests/services; here the pages.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PASSWORD = "correct horse battery"
OWN = {"Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


def post_sign_in(client: TestClient, **form: str):  # type: ignore[no-untyped-def]
    return client.post("/sign-in", data={"username": "ada", "password": PASSWORD, **form}, headers=OWN)


def link_for(engine: Engine, user: User) -> str:
    with write_session(engine) as session:
        return f"/link/{links.create_sign_in(session, user=session.merge(user))}"


def sessions_of(engine: Engine, user: User) -> int:
    with read_session(engine) as session:
        return (
            session.scalar(select(func.count()).where(UserSession.user_id == user.id, UserSession.revoked_at.is_(None)))
            or 0
        )


def test_a_password_leads_to_the_page_that_was_asked_for(client: TestClient, ada: User) -> None:
    asked = client.get("/account?tab=x")
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=/account%3Ftab%3Dx")
    form = client.get(asked.headers["location"])
    assert 'name="next" value="/account?tab=x"' in form.text
    reply = post_sign_in(client, next="/account?tab=x")
    assert (reply.status_code, reply.headers["location"]) == (303, "/account?tab=x")
    assert "Ada" in client.get("/account").text


def test_a_wrong_password_keeps_the_name_and_says_so(client: TestClient, ada: User) -> None:
    reply = post_sign_in(client, password="wrong")
    assert reply.status_code == 401
    assert "User name or password is wrong" in reply.text
    assert 'value="ada"' in reply.text
    assert "wrong" not in reply.text.split("<form")[-1]
    assert "set-cookie" not in reply.headers
    unknown = client.post("/sign-in", data={"username": "nobody", "password": "wrong"}, headers=OWN)
    assert unknown.text.replace("nobody", "ada").split("<main")[1] == reply.text.split("<main")[1]


def test_too_many_failures_close_the_door_for_a_while(settings: Settings, engine: Engine, ada: User) -> None:
    strict = settings.model_copy(update={"login_attempts": 2})
    with TestClient(create_app(strict), follow_redirects=False) as client:
        assert [post_sign_in(client, password="wrong").status_code for _ in range(3)] == [401, 401, 429]
        refused = post_sign_in(client)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 900


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\tevil",
        "http:evil.example",
        "/%0d%0aSet-Cookie:x=1\r\nSet-Cookie: x=1",
        " /account",
        "///evil.example",
    ],
)
def test_signing_in_never_leads_to_another_site_or_adds_headers(client: TestClient, ada: User, target: str) -> None:
    reply = post_sign_in(client, next=target)
    assert reply.headers["location"] == "/"
    assert [cookie.partition("=")[0] for cookie in reply.headers.get_list("set-cookie")] == ["prefloop_80"]
    assert client.get("/sign-in", params={"next": target}).headers["location"] == "/"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client: TestClient, ada: User) -> None:
    cookie = post_sign_in(client).headers["set-cookie"]
    assert cookie.startswith("prefloop_80=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_under_tls_the_cookie_is_secure_and_bound_to_the_host(settings: Settings, engine: Engine, ada: User) -> None:
    safe = settings.model_copy(update={"public_url": "https://testserver"})
    with TestClient(create_app(safe), base_url="https://testserver", follow_redirects=False) as client:
        reply = post_sign_in(client)
        cookie = reply.headers["set-cookie"]
        assert cookie.startswith("__Host-prefloop_443=")
        assert "Secure" in cookie.split("; ")
        assert reply.headers["strict-transport-security"].startswith("max-age=")
        assert client.get("/account").status_code == 200


def test_a_planted_cookie_is_never_adopted(client: TestClient, engine: Engine, ada: User) -> None:
    client.cookies.set("prefloop_80", "planted-by-mallory", domain="testserver.local")
    cookie = post_sign_in(client).headers["set-cookie"].partition(";")[0]
    assert "planted" not in cookie
    assert client.get(
        "/account", headers={"Cookie": "prefloop_80=planted-by-mallory"}, follow_redirects=False
    ).status_code in (200, 303)
    fresh = TestClient(client.app, follow_redirects=False, cookies={"prefloop_80": "planted-by-mallory"})
    assert fresh.get("/account").status_code == 303


def test_signing_in_again_ends_the_session_before(client: TestClient, engine: Engine, ada: User) -> None:
    first = post_sign_in(client).cookies["prefloop_80"]
    assert post_sign_in(client).cookies["prefloop_80"] != first
    assert sessions_of(engine, ada) == 1
    assert (
        TestClient(client.app, follow_redirects=False, cookies={"prefloop_80": first}).get("/account").status_code
        == 303
    )


def test_after_signing_out_a_copied_cookie_is_dead(client: TestClient, engine: Engine, ada: User) -> None:
    stolen = post_sign_in(client).cookies["prefloop_80"]
    thief = TestClient(client.app, follow_redirects=False, cookies={"prefloop": stolen})
    assert thief.get("/account").status_code == 200
    reply = client.post("/sign-out", headers=OWN)
    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in")
    assert "prefloop" not in client.cookies
    assert thief.get("/account").status_code == 303
    assert sessions_of(engine, ada) == 0


def test_another_site_cannot_sign_anybody_out_by_a_link(client: TestClient, engine: Engine, ada: User) -> None:
    post_sign_in(client)
    assert client.get("/sign-out").status_code == 405
    assert sessions_of(engine, ada) == 1


def test_a_typed_link_signs_in_at_once_and_only_once(client: TestClient, engine: Engine, ada: User) -> None:
    link = link_for(engine, ada)
    reply = client.get(link, headers=TYPED)
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    assert client.get("/account").status_code == 200
    assert client.get(link, headers=TYPED).headers["location"] == "/"  # the same person's double click
    second = TestClient(client.app, follow_redirects=False).get(link, headers=TYPED)
    assert second.status_code == 410
    assert "has been used" in second.text
    assert "set-cookie" not in second.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a chat's preview, a mail scanner
        {**TYPED, "Sec-Purpose": "prefetch;prerender"},
        {**TYPED, "Purpose": "prefetch"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "no-cors"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
        },  # another site signing a visitor in as somebody else
    ],
)
def test_whatever_only_looks_at_a_link_leaves_it_whole(
    client: TestClient, engine: Engine, ada: User, headers: dict[str, str]
) -> None:
    link = link_for(engine, ada)
    reply = client.get(link, headers=headers)
    assert reply.status_code == 200
    assert "Sign in as Ada" in reply.text
    assert sessions_of(engine, ada) == 0
    assert client.head(link).status_code == 405
    assert client.post(link, headers=OWN).status_code == 303
    assert sessions_of(engine, ada) == 1


def test_another_site_cannot_press_the_button_of_a_link(client: TestClient, engine: Engine, ada: User) -> None:
    link = link_for(engine, ada)
    assert client.post(link, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert sessions_of(engine, ada) == 0


def test_a_link_asks_before_it_replaces_somebody_else(
    client: TestClient, engine: Engine, ada: User, factory: Factory, sign_in: Callable[[User], TestClient]
) -> None:
    sign_in(factory.user(username="bob"))
    reply = client.get(link_for(engine, ada), headers=TYPED)
    assert reply.status_code == 200
    assert "You are signed in as Bob" in reply.text


def test_on_ones_own_machine_a_program_may_open_a_link(settings: Settings, engine: Engine, ada: User) -> None:
    embedded = settings.model_copy(update={"public_url": ""})
    here, elsewhere = (
        TestClient(create_app(embedded), client=(address, 5000), follow_redirects=False)
        for address in ("127.0.0.1", "192.0.2.9")
    )
    assert elsewhere.get(link_for(engine, ada)).status_code == 200
    assert here.get(link_for(engine, ada)).status_code == 303


def test_a_race_for_a_link_ends_with_one_session(client: TestClient, engine: Engine, ada: User) -> None:
    link = link_for(engine, ada)
    barrier = threading.Barrier(4)
    statuses: list[int] = []

    def press() -> None:
        browser = TestClient(client.app, follow_redirects=False)
        barrier.wait()
        statuses.append(browser.post(link, headers=OWN).status_code)

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [303, 410, 410, 410]
    assert sessions_of(engine, ada) == 1


def test_an_invitation_is_taken_on_its_page(client: TestClient, engine: Engine, factory: Factory) -> None:
    with write_session(engine) as session:
        token = links.invite(session, role=Role.ENGINEER, by=None)
    assert "invited as an engineer" in client.get(f"/link/{token}").text
    form = {"username": "grace", "display_name": "Grace", "password": "short"}
    refused = client.post(f"/invitation/{token}", data=form, headers=OWN)
    assert refused.status_code == 422
    assert "10 to 200 characters" in refused.text
    assert 'value="grace"' in refused.text
    assert "short" not in refused.text
    reply = client.post(f"/invitation/{token}", data={**form, "password": PASSWORD}, headers=OWN)
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    assert "Grace" in client.get("/account").text
    again = client.post(f"/invitation/{token}", data={**form, "username": "eve", "password": PASSWORD}, headers=OWN)
    assert again.status_code == 410


def test_an_invitation_cannot_be_talked_into_another_role(client: TestClient, engine: Engine) -> None:
    with write_session(engine) as session:
        token = links.invite(session, role=Role.EVALUATOR, by=None)
    client.post(
        f"/invitation/{token}",
        data={"username": "eve", "password": PASSWORD, "role": "admin", "is_demo": "1"},
        headers=OWN,
    )
    with read_session(engine) as session:
        assert users.get(session, "eve").role == Role.EVALUATOR


def test_without_an_admin_the_page_says_how_to_make_one(client: TestClient, factory: Factory) -> None:
    assert "prefloop user add NAME --role admin" in client.get("/sign-in").text
    factory.admin()
    assert "prefloop user add" not in client.get("/sign-in").text


def test_a_deactivated_person_is_out_with_the_next_click(
    client: TestClient, engine: Engine, ada: User, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    token = api(ada)
    post_sign_in(client)
    with write_session(engine) as session:
        users.set_active(session, user=users.get(session, "ada"), active=False, by=None)
    assert client.get("/account").status_code == 303
    assert client.get("/api/v1/me", headers=token).status_code == 401
    assert post_sign_in(client).status_code == 401


def test_ways_in_are_written_down(client: TestClient, engine: Engine, ada: User) -> None:
    post_sign_in(client)
    client.post("/sign-out", headers=OWN)
    client.get(link_for(engine, ada), headers=TYPED)
    with read_session(engine) as session:
        entries = [
            (entry.action, entry.detail.get("how"), entry.address)
            for entry, name in audit.listing(session).items
            if name == "ada"
        ]
    assert ("session.start", "password", "testclient") in entries
    assert ("session.start", "link", "testclient") in entries
    assert ("session.revoke", None, "testclient") in entries


def test_under_tls_every_cookie_is_secure_and_named_so(settings: Settings, engine: Engine, ada: User) -> None:
    safe = settings.model_copy(update={"public_url": "https://testserver"})
    with TestClient(create_app(safe), base_url="https://testserver", follow_redirects=False) as client:
        told = [
            *post_sign_in(client).headers.get_list("set-cookie"),
            *client.post("/theme", data={"theme": "dark"}, headers=OWN).headers.get_list("set-cookie"),
            *client.post("/account/sessions/revoke-others", headers=OWN).headers.get_list("set-cookie"),
        ]
        left = client.post("/sign-out", headers=OWN)
        told += left.headers.get_list("set-cookie")
    assert {cookie.partition("=")[0] for cookie in told} == {
        "__Host-prefloop_443",
        "__Host-prefloop_flash_443",
        "__Host-prefloop_theme_443",
    }
    for cookie in told:
        assert {"Secure", "HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; ")), cookie
    assert left.headers["clear-site-data"] == '"storage"'


def test_trace_is_not_answered(client: TestClient) -> None:
    for path in ("/", "/sign-in", "/api/v1/me", "/healthz"):
        assert client.request("TRACE", path, headers=OWN).status_code in (404, 405)
