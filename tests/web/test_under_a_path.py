"""Prefloop under a path of its host, under several names, and beside another on the same machine."""

import re
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.main import create_app
from app.models import User
from app.services.accounts import links, sessions
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
ADDRESS = re.compile(r'\s(?:href|src|action|formaction|hx-\w+(?::\w+)?|data-[\w-]*stream)="([^"]*)"')


@pytest.fixture
def under(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    served = settings.model_copy(update={"public_url": "https://box.example/team"})
    with TestClient(create_app(served), base_url="https://box.example", follow_redirects=False) as client:
        yield client


@pytest.fixture
def signed_in(under: TestClient, engine: Engine, factory: Factory) -> TestClient:
    with write_session(engine) as session:
        token = links.create_sign_in(session, user=session.merge(factory.admin()))
    reply = under.get(f"/team/link/{token}", headers=TYPED)
    assert (reply.status_code, reply.headers["location"]) == (303, "/team/")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("__Secure-prefloop_443=") and {"Path=/team", "Secure"} <= set(cookie.split("; "))
    return under


def test_every_link_of_every_page_stays_under_the_path(signed_in: TestClient, factory: Factory, tiny: str) -> None:
    """Case 151."""
    project = factory.judged(4, slug="tone", default_base_model=tiny)
    factory.snapshot(project)
    due, seen = ["/team/"], set()
    while due:
        path = due.pop()
        reply = signed_in.get(path)
        if reply.status_code == 303:
            assert reply.headers["location"].startswith("/team/"), path
            due += [reply.headers["location"]] if reply.headers["location"] not in seen else []
            seen.add(reply.headers["location"])
            continue
        assert reply.status_code in (200, 404, 405), (path, reply.status_code)  # 405: the address of a form
        if not reply.headers["content-type"].startswith("text/html"):
            continue
        for address in ADDRESS.findall(reply.text):
            own = address.split("?")[0].split("#")[0]
            if own.startswith("/"):
                assert own == "/team/" or own.startswith("/team/"), (path, address)
                assert not own.startswith("/team/team"), (path, address)
                if own not in seen and "/sign-out" not in own and not own.endswith(("/stream", ".tar")):
                    seen.add(own)
                    due.append(own)
    assert {"/team/people", "/team/account", "/team/projects/tone/data", "/team/projects/tone/train"} <= seen
    assert any(address.startswith("/team/static/") for address in seen)


def test_a_proxy_may_take_the_path_off_itself(signed_in: TestClient) -> None:
    assert signed_in.get("/team/account").text == signed_in.get("/team/account").text
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())}
    assert signed_in.get("/account", headers=cookie).status_code == 200
    assert signed_in.get("/healthz").status_code == 200


def test_forms_redirects_and_flashes_stay_under_the_path(signed_in: TestClient) -> None:
    reply = signed_in.post("/team/account/sessions/revoke-others", headers=OWN)
    assert reply.headers["location"] == "/team/account"
    flash = reply.headers["set-cookie"]
    assert flash.startswith("__Secure-prefloop_flash_443=") and {"Path=/team", "Secure", "HttpOnly"} <= set(
        flash.split("; ")
    )
    assert "0 other browsers signed out." in signed_in.get("/team/account").text
    assert (
        signed_in.post("/team/theme", data={"theme": "dark", "next": "/team/people"}, headers=OWN).headers["location"]
        == "/team/people"
    )
    assert (
        signed_in.post("/team/theme", data={"theme": "dark", "next": "/people"}, headers=OWN).headers["location"]
        == "/team/people"
    )
    for evil in ("/team//evil.example", "/team/\\evil.example", "//evil.example"):
        assert signed_in.post("/team/theme", data={"next": evil}, headers=OWN).headers["location"] == "/team/"


def test_strangers_are_sent_to_the_sign_in_page_and_back(under: TestClient) -> None:
    assert under.get("/team/people?page=2").headers["location"] == "/team/sign-in?next=/people%3Fpage%3D2"
    asked = {"HX-Request": "true", "HX-Current-URL": "https://box.example/team/people"}
    assert under.get("/team/people", headers=asked).headers["hx-redirect"] == "/team/sign-in?next=/people"


def test_the_api_says_where_it_is(
    under: TestClient, engine: Engine, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    assert under.get("/team/api/v1/openapi.json").json()["servers"] == [{"url": "/team"}]
    admin = factory.admin()
    token = api(admin)
    assert under.get("/team/api/v1/me", headers=token).status_code == 200
    link = under.post("/team/api/v1/invitations", json={}, headers=token).json()
    assert link["url"].startswith("https://box.example/team/link/")
    assert under.get("/team/api/v1/jobs/99", headers=token).json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("more", "host", "answers"),
    [
        ({}, "localhost:8000", True),
        ({}, "127.0.0.1:8000", True),
        ({}, "[::1]:8000", True),
        ({}, "prefloop.localhost", True),
        ({}, "10.0.0.5:8000", True),  # the address that the request came to
        ({}, "10.0.0.6:8000", False),
        ({}, "evil.example", False),
        ({}, "[::1", False),
        ({"allowed_hosts": "web,box.example"}, "web:8000", True),
        ({"allowed_hosts": "web,box.example"}, "Box.Example.", True),
        ({"allowed_hosts": "web"}, "web.evil.example", False),
        ({"public_url": "http://Box.Example:80"}, "box.example", True),
        ({"public_url": "http://box.example"}, "other.example", False),
        ({"host": "192.0.2.7"}, "192.0.2.7", True),
    ],
)
def test_only_known_names_are_answered(
    settings: Settings, engine: Engine, more: dict[str, str], host: str, answers: bool
) -> None:
    alone = Settings.model_validate(settings.model_dump() | {"public_url": ""} | more)
    client = TestClient(create_app(alone), base_url="http://10.0.0.5:8000", follow_redirects=False)
    reply = client.get("/sign-in", headers={"Host": host})
    assert reply.status_code == (200 if answers else 421)
    if not answers:
        assert "PREFLOOP_ALLOWED_HOSTS" in reply.text


def test_an_origin_in_capitals_or_with_the_default_port_is_ours(settings: Settings, engine: Engine) -> None:
    for public, origin in (
        ("http://Box.Example:8112", "http://box.example:8112"),
        ("http://box.example:80", "http://box.example"),
    ):
        served = Settings.model_validate(settings.model_dump() | {"public_url": public})
        client = TestClient(create_app(served), base_url=origin, follow_redirects=False)
        assert client.post("/sign-out", headers={"Origin": origin}).status_code == 303
        assert client.post("/sign-out", headers={"Origin": "http://other.example"}).status_code == 403


def test_nobodys_forwarded_headers_are_believed_unless_told(
    settings: Settings, engine: Engine, factory: Factory
) -> None:
    factory.user(username="ada", password="correct horse battery")
    app = create_app(settings)
    client = TestClient(app, client=("127.0.0.1", 1), follow_redirects=False)
    form = {"username": "ada", "password": "correct horse battery"}
    client.post("/sign-in", data=form, headers={**OWN, "X-Forwarded-For": "203.0.113.5"})
    page = client.get("/account").text
    assert "203.0.113.5" not in page and "127.0.0.1" in page


def test_two_on_one_machine_do_not_sign_each_other_out(settings: Settings, engine: Engine, factory: Factory) -> None:
    """Case 156."""
    ada = factory.user(username="ada", password="correct horse battery")
    form = {"username": "ada", "password": "correct horse battery"}
    one, two = (
        TestClient(
            create_app(Settings.model_validate(settings.model_dump() | {"public_url": "", "port": port})),
            base_url=f"http://127.0.0.1:{port}",
            follow_redirects=False,
        )
        for port in (8111, 8112)
    )
    jar = {
        cookie.partition("=")[0]: cookie.partition(";")[0]
        for client in (one, two)
        for cookie in client.post("/sign-in", data=form, headers=OWN).headers.get_list("set-cookie")
    }
    assert set(jar) == {"prefloop_8111", "prefloop_8112"}
    both = {"Cookie": "; ".join(jar.values())}  # one browser: cookies know no ports
    for client in (one, two):
        client.cookies.clear()
        assert client.get("/account", headers=both).status_code == 200

    with write_session(engine) as session:
        old = sessions.start(session, user=session.merge(ada))
    browser = TestClient(one.app, base_url="http://127.0.0.1:8111", follow_redirects=False)
    adopted = browser.get("/account", headers={"Cookie": f"prefloop={old}"})
    assert adopted.status_code == 200
    told = adopted.headers.get_list("set-cookie")
    assert told[0].startswith(f"prefloop_8111={old};") and told[1].startswith('prefloop="";')
    assert browser.get("/account", headers={"Cookie": f"prefloop_8111={old}"}).headers.get_list("set-cookie") == []
    foreign = browser.get("/account", headers={"Cookie": "prefloop=of-the-other-one"})
    assert foreign.status_code == 303 and "set-cookie" not in foreign.headers
