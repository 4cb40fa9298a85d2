"""Many requests in one moment stop nothing: each gets a normal answer, on both databases."""

import os
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app.config import Settings, get_settings
from app.db import write_session
from app.models import Role
from app.security import cookie_name, new_token
from app.services.accounts import sessions, tokens
from app.services.training import runs
from tests.burst import burst
from tests.live import LiveServer
from tests.services_for_tests import free_port


@pytest.fixture
def server(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """`prefloop serve` on the test's database. It waits for slow clients a second only."""
    monkeypatch.setenv("PREFLOOP_PORT", str(free_port()))
    monkeypatch.setenv("PREFLOOP_PUBLIC_URL", "")
    monkeypatch.setenv("PREFLOOP_CLIENT_SECONDS", "1")
    get_settings.cache_clear()
    settings.data_dir.mkdir(exist_ok=True)
    server = LiveServer(get_settings(), dict(os.environ))
    server.start("serve")
    yield server
    server.stop("serve")


def is_alive(server: LiveServer) -> bool:
    with urllib.request.urlopen(f"{server.url}/healthz", timeout=30) as reply:
        return bool(reply.status == 200)


@pytest.mark.parametrize("count", [45, 200])
def test_forms_with_an_unknown_cookie_are_all_sent_to_sign_in(server: LiveServer, count: int) -> None:
    headers = [f"Cookie: {cookie_name(server.settings)}={new_token()}", "Sec-Fetch-Site: none"]
    path = "/account/sessions/revoke-others"
    assert burst(server.settings.port, count, "POST", path, headers=headers) == {"303": count}
    assert is_alive(server)


@pytest.mark.parametrize("count", [120, 400])
def test_pages_with_an_unknown_cookie_are_all_sent_to_sign_in(server: LiveServer, count: int) -> None:
    headers = [f"Cookie: {cookie_name(server.settings)}={new_token()}"]
    assert burst(server.settings.port, count, "GET", "/projects", headers=headers) == {"303": count}
    assert is_alive(server)


def test_everybody_signed_in_gets_their_page_and_their_change(server: LiveServer, engine: Engine) -> None:
    with write_session(engine) as session:
        user = session.merge(server.factory.user(role=Role.ADMIN))
        _, token = tokens.create(session, user=user, name="script")
    headers = [f"Authorization: Bearer {token}", "Content-Type: application/json"]
    port = server.settings.port
    assert burst(port, 200, "GET", "/api/v1/projects", headers=headers) == {"200": 200}
    project = server.factory.project()
    assert burst(port, 120, "POST", f"/api/v1/projects/{project.slug}/next", headers=headers) == {"204": 120}
    assert is_alive(server)


@pytest.mark.parametrize("count", [150, 400])
def test_streams_that_all_come_again_at_once_are_all_answered_and_hold_up_nobody(
    server: LiveServer, engine: Engine, count: int
) -> None:
    factory = server.factory
    snapshot, user = factory.snapshot(factory.judged(4)), factory.user(role=Role.ENGINEER)
    with write_session(engine) as session:
        cookie = f"{cookie_name(server.settings)}={sessions.start(session, user=session.merge(user))}"
        own = {"snapshot": session.merge(snapshot), "by": session.merge(user)}
        job_id = runs.create(session, base_model="tiny", config={}, **own).job_id
    headers, port = [f"Cookie: {cookie}"], server.settings.port
    for _ in range(2):
        for path in (f"/jobs/{job_id}/stream", f"/jobs/{job_id}/stream?wait=false"):
            assert burst(port, count, "GET", path, headers=headers, first_byte=True) == {"200": count}
    assert burst(port, 20, "GET", f"/jobs/{job_id}", headers=headers) == {"200": 20}
    unknown = [f"Cookie: {cookie_name(server.settings)}={new_token()}"]
    assert burst(port, count, "GET", f"/jobs/{job_id}/stream", headers=unknown) == {"303": count}


def test_two_hundred_slow_uploads_with_an_unknown_token_are_refused_unread(server: LiveServer) -> None:
    project = server.factory.project()
    path, headers = f"/api/v1/projects/{project.slug}/import", [f"Authorization: Bearer plf_{new_token()}"]
    answers = burst(server.settings.port, 200, "POST", path, headers=headers, body="{", announced=1_000_000)
    assert answers == {"401": 200}
    assert is_alive(server)


def test_slow_uploads_hold_up_nobody_and_are_told_when_to_come_again(server: LiveServer, engine: Engine) -> None:
    with write_session(engine) as session:
        user = session.merge(server.factory.user(role=Role.ENGINEER))
        _, token = tokens.create(session, user=user, name="script")
    project = server.factory.project()
    head = (
        f"POST /api/v1/projects/{project.slug}/import HTTP/1.1\r\nHost: 127.0.0.1:{server.settings.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 1000000\r\n\r\n"
    ).encode()
    uploads = [socket.create_connection(("127.0.0.1", server.settings.port)) for _ in range(200)]
    for upload in uploads:
        upload.sendall(head + b'{"prompt": "Hi", ')
    headers = [f"Authorization: Bearer {token}"]
    assert burst(server.settings.port, 20, "GET", "/api/v1/projects", headers=headers) == {"200": 20}
    answers = []
    for upload in uploads:
        upload.settimeout(60)
        answers.append(upload.recv(65536))
        upload.close()
    assert {answer[9:12] for answer in answers} == {b"408", b"429"}
    assert sum(answer[9:12] == b"408" for answer in answers) >= 2
    assert all(b"retry-after:" in answer.lower() for answer in answers)


def test_body_that_stops_in_the_middle_is_not_waited_for(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.settings.port), timeout=60) as client:
        client.sendall(
            b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: none\r\nContent-Length: 1000\r\n\r\nusername="
        )
        answer = client.recv(65536).lower()
    assert answer.startswith(b"http/1.1 408") and b"retry-after:" in answer and b"connection: close" in answer


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: 127"])
def test_connection_on_which_no_request_comes_is_closed(server: LiveServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.settings.port), timeout=60) as client:
        client.sendall(sent)
        assert client.recv(65536) == b""
