"""What machines ask: alive, ready, numbers."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.routes.ops import health
from app.routes.ops.health import READY_SECONDS, Readiness
from tests.conftest import ROOT
from tests.factory import Factory

TOKEN = "scrape-" * 5


def samples(exposition: str) -> dict[str, float]:
    lines = re.findall(r"^(\w+(?:\{.*\})?) ([-+.e\d]+)$", exposition, re.MULTILINE)
    return {name: float(value) for name, value in lines}


@pytest.fixture
def scrape(settings: Settings, engine: Engine) -> Callable[[TestClient], dict[str, float]]:
    def read(client: TestClient) -> dict[str, float]:
        reply = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/plain")
        return samples(reply.text)

    return read


@pytest.fixture
def watched(settings: Settings, engine: Engine) -> TestClient:
    return TestClient(create_app(settings.model_copy(update={"metrics_token": TOKEN})), follow_redirects=False)


def test_ready_names_every_check(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    reply = client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json() == {
        "status": "ready",
        "checks": {"database": "ok", "migrations": "ok", "broker": "ok", "storage": "ok"},
    }


def test_however_many_ask_one_looks_and_only_after_some_seconds_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Settings] = []
    monkeypatch.setattr(health, "_examine", lambda settings: looked.append(settings) or [])
    now = 100.0
    readiness = Readiness(lambda: now)

    async def many() -> None:
        await asyncio.gather(*(readiness.findings(settings) for _ in range(50)))

    async def scenario() -> None:
        nonlocal now
        await many()
        now += READY_SECONDS - 0.1
        await many()
        assert len(looked) == 1
        now += 0.2
        await many()
        assert len(looked) == 2

    asyncio.run(scenario())


def test_ready_is_answered_while_somebody_holds_the_right_to_write(client: TestClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))  # on SQLite BEGIN IMMEDIATE came before it
        assert client.get("/readyz").json()["status"] == "ready"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_of_another_version_is_not_ready(client: TestClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["status"], reply.json()["checks"]["migrations"]) == (
        503,
        "not ready",
        "fail",
    )
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ({"broker_url": "redis://127.0.0.1:1/0"}, "broker"),
        ({"storage_url": "file:///proc/nowhere"}, "storage"),
        ({"database_url": "postgresql://nobody:hunter2@127.0.0.1:1/none"}, "database"),
    ],
)
def test_a_part_that_is_away_is_named_without_its_address(
    settings: Settings, broken: dict[str, str], check: str
) -> None:
    client = TestClient(create_app(settings.model_copy(update=broken)))
    reply = client.get("/readyz")
    assert reply.status_code == 503
    assert reply.json()["checks"][check] == "fail"
    assert "127.0.0.1" not in reply.text
    assert "hunter2" not in reply.text
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_numbers_need_their_token(watched: TestClient) -> None:
    for wrong in ("", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN):
        assert watched.get("/metrics", headers={"Authorization": wrong}).status_code == 403
    assert watched.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_a_token_numbers_stay_on_this_machine(settings: Settings, engine: Engine) -> None:
    app = create_app(settings)
    assert TestClient(app, client=("127.0.0.1", 1)).get("/metrics").status_code == 200
    assert TestClient(app, client=("::1", 1)).get("/metrics").status_code == 200
    assert TestClient(app, client=("192.0.2.1", 1)).get("/metrics").status_code == 403
    # Behind a proxy on this machine it is the visitor who counts.
    assert (
        TestClient(app, client=("127.0.0.1", 1)).get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code
        == 403
    )


def test_the_products_numbers_come_from_the_database(
    watched: TestClient, scrape: Callable[[TestClient], dict[str, float]], factory: Factory
) -> None:
    before = scrape(watched)
    assert before["prefloop_judgments_total"] == 0
    assert before['prefloop_jobs{state="queued"}'] == before["prefloop_workers_alive"] == 0
    factory.judged(3)
    after = scrape(watched)
    assert (after["prefloop_judgments_total"], after["prefloop_comparisons"]) == (3, 3)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_requests_are_counted_by_route_not_by_address(
    watched: TestClient, scrape: Callable[[TestClient], dict[str, float]]
) -> None:
    for number in range(3):
        watched.get(f"/api/v1/jobs/{number + 1}")
        watched.get(f"/nothing/{number}")
        watched.get(f"/link/token-{number}")
    watched.post("/sign-in", data={}, headers={"Sec-Fetch-Site": "same-origin"})
    counted = scrape(watched)
    assert counted['prefloop_requests_total{method="GET",route="/api/v1/jobs/{job_id}",status="401"}'] == 3
    assert counted['prefloop_requests_total{method="GET",route="unmatched",status="404"}'] == 3
    assert counted['prefloop_requests_total{method="GET",route="/link/{token}",status="404"}'] == 3
    assert counted['prefloop_requests_total{method="POST",route="/sign-in",status="422"}'] == 1
    assert counted['prefloop_request_seconds_count{method="GET",route="/link/{token}"}'] == 3
    assert not any("token-" in name for name in counted)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_several_processes_count_together(settings: Settings, tmp_path: Path, engine: Engine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PREFLOOP_PORT": str(port),
        "PREFLOOP_WEB_WORKERS": "2",
        "PREFLOOP_PUBLIC_URL": "",
        "PREFLOOP_METRICS_TOKEN": TOKEN,
    }
    log = (tmp_path / "serve.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Connection": "close"}) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.get("/healthz")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
                    assert server.poll() is None, (tmp_path / "serve.log").read_text()
                    time.sleep(0.1)
            for _ in range(30):
                assert client.get("/nothing").status_code == 404
            counted = {
                samples(client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text)[
                    'prefloop_requests_total{method="GET",route="unmatched",status="404"}'
                ]
                for _ in range(10)
            }
        assert counted == {30}  # whichever process answers
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        log.close()
