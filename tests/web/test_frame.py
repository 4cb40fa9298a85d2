"""What surrounds every answer: headers, numbers, logs, limits, and errors as pages or problems."""

import logging
import re
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.main import create_app
from app.models import User
from app.services.accounts import sessions, users
from app.web.deps import SessionDep, UserDep
from app.web.middleware import Frame
from app.web.templating import TEMPLATES
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def broken(client: TestClient) -> TestClient:
    """The app with routes that fail in ways that no real one should."""
    app = client.app
    assert isinstance(app, FastAPI)

    def fail(kind: str) -> None:
        raise {
            "bug": RuntimeError("the secret is 12345"),
            "database": OperationalError("SELECT 'an answer'", {}, Exception("locked")),
        }[kind]

    def too_big(number: int, session: SessionDep) -> None:
        session.get(User, number)

    app.add_api_route("/broken/{kind}", fail)
    app.add_api_route("/api/v1/broken/{kind}", fail)
    app.add_api_route("/find/{number}", too_big)
    return client


@pytest.mark.parametrize(
    "path", ["/sign-in", "/nothing", "/api/v1/me", "/healthz", "/static/prefloop.css", "/account", "/broken/bug"]
)
def test_every_answer_carries_the_headers(broken: TestClient, path: str) -> None:
    headers = broken.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'self'",
        "img-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert len(headers["x-request-id"]) >= 8
    assert "strict-transport-security" not in headers  # not under plain HTTP
    assert ("no-store" in headers["cache-control"]) == (not path.startswith("/static/"))


def test_assets_named_by_their_content_are_kept_for_ever(client: TestClient) -> None:
    assert "immutable" in client.get("/static/prefloop.css?v=abc").headers["cache-control"]
    assert client.get("/static/prefloop.css").headers["cache-control"] == "no-cache"


def test_no_template_holds_what_the_policy_forbids(database_url: str) -> None:
    forbidden = re.compile(
        r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\b(src=|type=\"application/json\"))|javascript:|(src|href)=\"(https?:)?//"
    )
    breaches = [
        f"{path.name}: {match[0]}"
        for path in TEMPLATES.rglob("*.html")
        for match in forbidden.finditer(path.read_text())
    ]
    assert breaches == []


@pytest.mark.parametrize(
    "path", ["/static/../main.py", "/static/%2e%2e/main.py", "/static/..%2fconfig.py", "/static//etc/passwd"]
)
def test_nothing_beside_the_assets_is_served(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert "import" not in reply.text


def test_a_plain_request_number_is_kept_and_an_odd_one_replaced(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-123-def"}).headers["x-request-id"] == "abc-123-def"
    for odd in ("short", "x" * 65, "a b c d e f g", "<script>alert(1)</script>", "log\x1b[31mred"):
        assert client.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"] != odd


def test_an_unexpected_error_is_a_page_with_a_number_and_no_secrets(
    broken: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    reply = broken.get("/broken/bug")
    assert reply.status_code == 500
    assert "Something went wrong in Prefloop itself" in reply.text
    assert reply.headers["x-request-id"] in reply.text
    assert "12345" not in reply.text
    assert "Traceback" not in reply.text
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [getattr(record, "request_id", None) for record in logged] == [reply.headers["x-request-id"]]
    assert logged[0].exc_info is not None


def test_an_unexpected_error_of_the_api_is_a_problem(broken: TestClient) -> None:
    reply = broken.get("/api/v1/broken/bug")
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert (problem["status"], problem["code"], problem["request_id"]) == (
        500,
        "internal_error",
        reply.headers["x-request-id"],
    )
    assert "12345" not in reply.text


def test_a_busy_database_asks_to_come_back(broken: TestClient) -> None:
    reply = broken.get("/broken/database")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert "an answer" not in reply.text
    assert broken.get("/api/v1/broken/database").json()["retry_after"] == 5


def test_a_number_beyond_the_databases_is_the_callers_error(broken: TestClient) -> None:
    assert broken.get(f"/find/{2**70}").status_code == 422


def test_pages_of_errors_keep_the_bar_of_who_is_signed_in(
    broken: TestClient, sign_in: Callable[[User], TestClient], factory: Factory
) -> None:
    assert 'action="/sign-out"' not in broken.get("/nothing").text
    sign_in(factory.user())
    for path, status in (("/nothing", 404), ("/people", 403), ("/broken/bug", 500)):
        reply = broken.get(path)
        assert reply.status_code == status
        assert 'action="/sign-out"' in reply.text
        assert "data-error" in reply.text


def test_a_fragment_gets_its_error_at_the_top_of_the_page(
    client: TestClient, sign_in: Callable[[User], TestClient], factory: Factory
) -> None:
    htmx = {"HX-Request": "true", "HX-Current-URL": "http://testserver/projects/tone/history?page=2"}
    away = client.get("/account", headers=htmx)
    assert (away.status_code, away.headers["hx-redirect"]) == (401, "/sign-in?next=/projects/tone/history%3Fpage%3D2")
    sign_in(factory.user())
    reply = client.get("/people", headers=htmx)
    assert (reply.status_code, reply.headers["hx-retarget"], reply.headers["hx-reswap"]) == (
        403,
        "#flashes",
        "innerHTML",
    )
    assert "<html" not in reply.text
    assert "This is for admins" in reply.text


def test_a_form_with_missing_fields_says_which_and_repeats_no_password(client: TestClient) -> None:
    reply = client.post("/sign-in", data={"password": "hunter2hunter2"}, headers=OWN)
    assert reply.status_code == 422
    assert "body.username" in reply.text
    assert "hunter2" not in reply.text


def test_after_signing_in_a_form_leads_back_to_its_page(client: TestClient) -> None:
    away = {**OWN, "Referer": "http://testserver/account"}
    reply = client.post("/account/tokens", headers=away)
    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in?next=/account")
    secret = client.post("/account/password", data={"current": "x", "new_password": "hunter2hunter2"}, headers=away)
    assert (secret.status_code, secret.headers["location"]) == (303, "/sign-in?next=/account"), (
        "no page repeats a secret"
    )


def test_what_a_form_held_when_the_session_had_ended_can_be_sent_again(client: TestClient) -> None:
    reply = client.post("/account/tokens?a=1", data={"name": "<b>\n x"}, headers=OWN)
    assert reply.status_code == 401
    assert '<form action="/account/tokens?a=1" method="post"' in reply.text
    assert '<textarea name="name" hidden>\n&lt;b&gt;\n x</textarea>' in reply.text.replace("\r", "")


def test_a_page_that_isnt_an_address_leads_to_the_sign_in_form_alone(client: TestClient) -> None:
    nowhere = {"Referer": "http://[", "HX-Current-URL": "http://["}
    reply = client.post("/account/tokens", headers=OWN | nowhere)
    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in")
    reply = client.get("/workers", headers=nowhere | {"HX-Request": "true"})
    assert (reply.status_code, reply.headers["hx-redirect"]) == (401, "/sign-in")


def test_other_names_of_the_server_are_refused(client: TestClient) -> None:
    for name in ("evil.example", "[", "testserver]", ""):
        assert client.get("/sign-in", headers={"Host": name}).status_code == 421
    for name in ("testserver", "TESTSERVER", "testserver:8000", "127.0.0.1:8000", "[::1]:8000", "localhost"):
        assert client.get("/healthz", headers={"Host": name}).status_code == 200


def body(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 1000


def test_oversized_bodies_are_refused_declared_or_not(
    settings: Settings, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    small = settings.model_copy(update={"max_request_bytes": 10_000, "max_import_bytes": 50_000})
    token = api(factory.engineer())
    with TestClient(create_app(small), follow_redirects=False) as client:
        for content in (b"x" * 11_000, body(11_000)):
            page = client.post(
                "/sign-in", content=content, headers=OWN | {"Content-Type": "application/x-www-form-urlencoded"}
            )
            assert page.status_code == 413
            assert "larger than" in page.text
        reply = client.post("/api/v1/jobs", content=body(11_000), headers=token | {"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
        # An import has a limit of its own.
        assert client.post("/api/v1/projects/none/import", content=body(20_000), headers=token).status_code == 404
        assert client.post("/api/v1/projects/none/import", content=b"x" * 51_000, headers=token).status_code == 413


def test_broken_json_is_the_callers_error(
    client: TestClient, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    token = api(factory.admin()) | {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b'{"username": "a\x00b"}', b"[" * 50_000):
        reply = client.post("/api/v1/users", content=content, headers=token)
        assert 400 <= reply.status_code < 500
        assert reply.headers["content-type"] == "application/problem+json"


def test_the_log_names_requests_but_never_tokens(
    client: TestClient, caplog: pytest.LogCaptureFixture, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    token = api(factory.user(username="ada"))
    logging.getLogger("app").setLevel("INFO")
    with caplog.at_level(logging.INFO, "app.requests"):
        client.get("/link/secret-token-1?next=secret-query")
        client.post("/invitation/secret-token-2", headers=OWN)
        client.get("/LINK//secret-token-3")
        client.get("/api/v1/me", headers=token)
        client.get("/healthz")
    told = "\n".join(str(vars(record)) for record in caplog.records if record.name == "app.requests")
    assert "/link/…" in told
    assert "/invitation/…" in told
    assert "ada" in told
    assert "secret" not in told
    assert token["Authorization"].removeprefix("Bearer ") not in told
    assert "healthz" not in told


def test_behind_a_proxy_the_visitors_address_counts_and_cannot_be_made_up(settings: Settings, factory: Factory) -> None:
    factory.user(username="ada", password="correct horse battery")
    trusting = settings.model_copy(update={"forwarded_allow_ips": "10.0.0.1", "login_attempts": 1})
    app = create_app(trusting)
    form = {"username": "ada", "password": "correct horse battery"}

    def sign_in_from(peer: str, forwarded: str) -> str:
        browser = TestClient(app, client=(peer, 1), follow_redirects=False)
        assert browser.post("/sign-in", data=form, headers={**OWN, "X-Forwarded-For": forwarded}).status_code == 303
        return browser.get("/account").text

    assert "203.0.113.5" in sign_in_from("10.0.0.1", "203.0.113.5")
    assert "203.0.113.66" not in sign_in_from("198.51.100.9", "203.0.113.66")
    assert "203.0.113.77" not in sign_in_from("10.0.0.1", "203.0.113.77, 203.0.113.6")


def test_an_open_stream_ends_when_its_session_does(
    settings: Settings,
    engine: Engine,
    factory: Factory,
    sign_in: Callable[[User], TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Frame, "look_again_seconds", 0.0)
    browser = sign_in(factory.user(username="ada"))
    assert isinstance(browser.app, FastAPI)
    sent: list[int] = []

    def endless(user: UserDep) -> StreamingResponse:
        def lines() -> Iterator[bytes]:
            for number in range(1000):
                sent.append(number)
                if number == 3:
                    with write_session(engine) as session:
                        sessions.revoke_all(session, user=users.get(session, "ada"))
                yield f"data: {number}\n\n".encode()

        return StreamingResponse(lines(), media_type="text/event-stream")

    browser.app.add_api_route("/endless", endless)
    reply = browser.get("/endless")
    assert reply.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert len(sent) == 4
    assert browser.app.state.metrics.streams._value.get() == 0
