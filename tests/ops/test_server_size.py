"""Server size by its own commands: PostgreSQL, Redis, two web processes, one worker, everything through the API."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import get_settings
from app.services.training import base_models
from tests.conftest import ROOT
from tests.services_for_tests import free_port
from tests.worker.dpo.tiny import save_tiny

PATIENCE_SECONDS = 120


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """What docker-compose.yml sets, with a tiny base model in the models folder."""
    port = free_port()
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFLOOP_")} | {
        "PREFLOOP_DATA_DIR": str(tmp_path / "data"),
        "PREFLOOP_DATABASE_URL": database_url,
        "PREFLOOP_BROKER_URL": redis_url,
        "PREFLOOP_SECRET_KEY": "s3cret-" * 8,
        "PREFLOOP_PORT": str(port),
        "PREFLOOP_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PREFLOOP_LOG_JSON": "true",
        "PREFLOOP_WEB_WORKERS": "2",
        "PREFLOOP_HEARTBEAT_SECONDS": "0.5",
        "OMP_NUM_THREADS": "1",
    }


def prefloop(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[httpx.Client]:
    """The two long-running commands; a client with an admin's token."""
    prefloop(environment, "migrate")
    prefloop(environment, "user", "add", "root", "--role", "admin")
    token = prefloop(environment, "token", "create", "test").strip()
    base = save_tiny(tmp_path / "tiny")
    base_models.add(
        get_settings().model_copy(update={"data_dir": tmp_path / "data", "models_dir": None}), "tiny", str(base)
    )
    log = (tmp_path / "processes.log").open("wb")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", name],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for name in ("serve", "worker")
    ]
    client = httpx.Client(
        base_url=environment["PREFLOOP_PUBLIC_URL"], headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _ready(client):
            assert time.monotonic() < deadline, (tmp_path / "processes.log").read_text()[-4000:]
            time.sleep(0.1)
        yield client
    finally:
        client.close()
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(40)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_loop_on_postgresql_and_redis(server: httpx.Client, environment: dict[str, str]) -> None:
    assert server.post("/api/v1/projects", json={"slug": "tone", "name": "Tone"}).status_code == 201
    lines = "".join(
        json.dumps({"prompt": f"Question {n}?", "responses": [f"Good answer {n}.", f"Bad {n}."]}) + "\n"
        for n in range(24)
    )
    report = server.post(
        "/api/v1/projects/tone/import", content=lines.encode(), headers={"Content-Type": "application/x-ndjson"}
    ).json()
    assert report["added"] == 24, report
    for _ in range(24):
        pair = server.post("/api/v1/projects/tone/next").json()
        better = "left" if "Good" in str(pair["left"]) else "right"
        assert server.post("/api/v1/judgments", json={"token": pair["token"], "choice": better}).status_code in (
            200,
            201,
        )
    assert server.post("/api/v1/projects/tone/next").status_code == 204

    snapshot = server.post("/api/v1/projects/tone/snapshots", json={}).json()
    wanted = {
        "snapshot_id": snapshot["id"],
        "base_model": "tiny",
        "config": {"max_steps": 4, "batch_size": 4, "lora_r": 2, "sample_prompts": 0},
    }
    jobs = [server.post("/api/v1/jobs", json=wanted, headers={"Idempotency-Key": "one"}).json()["id"] for _ in range(2)]
    assert jobs[0] == jobs[1]

    ids, kinds = [], []
    with server.stream(
        "GET", f"/api/v1/jobs/{jobs[0]}/events", headers={"Accept": "text/event-stream"}, timeout=PATIENCE_SECONDS
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("id:"):
                ids.append(int(line[3:]))
            elif line.startswith("event:"):
                kinds.append(line[6:].strip())
    assert ids == sorted(set(ids))
    assert kinds.count("step") == 4
    assert server.get(f"/api/v1/jobs/{jobs[0]}").json()["state"] == "succeeded"

    (row,) = server.get("/api/v1/checkpoints").json()["items"]
    checkpoint = server.get(f"/api/v1/checkpoints/{row['id']}").json()
    file = next(one for one in checkpoint["files"] if one["name"] == "adapter_model.safetensors")
    address = f"/api/v1/checkpoints/{row['id']}/files/{file['name']}"
    first = server.get(address, headers={"Range": "bytes=0-99"})
    rest = server.get(address, headers={"Range": "bytes=100-", "If-Range": first.headers["ETag"]})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert hashlib.sha256(first.content + rest.content).hexdigest() == file["sha256"]

    assert "ok   broker: Redis answers" in prefloop(environment, "doctor")
    assert "prefloop_jobs" in server.get("/metrics").text
