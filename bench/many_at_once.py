"""Many requests in one moment, beside a person who loads pages: `python -m bench.many_at_once [--database URL] [--processes N]`.

Starts a server of its own on loopback, on a fresh SQLite file or in an empty PostgreSQL database, with one job to watch. One load
after the other: 200 POSTs and 400 GETs with an unknown cookie, 400 streams that reconnect twice, 200 uploads that send a drop now and
then. Meanwhile a signed-in person loads pages. Prints statuses, when the first and the last answer came, and the person's times.
Exit 1 on a 5xx, a missing answer, or one later than 10 seconds.
"""

import argparse
import http.client
import os
import platform
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_SECONDS = 10.0
UPLOADS_END_SECONDS = 30.0
CLIENT_SECONDS = 5


@dataclass
class Person:
    """Loads pages one after the other until told to stop."""

    port: int
    cookie: str
    paths: tuple[str, ...]
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.seconds.clear()
        self.statuses.clear()
        over = threading.Event()
        thread = threading.Thread(target=self._load, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _load(self, over: threading.Event) -> None:
        while not over.is_set():
            for path in self.paths:
                began = time.monotonic()
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                with suppress(OSError, http.client.HTTPException):
                    connection.request("GET", path, headers={"Cookie": self.cookie})
                    reply = connection.getresponse()
                    reply.read()
                    self.statuses[reply.status] += 1
                    self.seconds.append(time.monotonic() - began)
                connection.close()
            over.wait(0.1)


@dataclass
class Load:
    """`count` requests in one moment. `again`: so often each connection is opened anew after its first byte.
    `drops`: sent one every second. `limit`: how late the last answer may be."""

    name: str
    count: int
    request: bytes
    first_byte: bool = False
    again: int = 0
    drops: bytes = b""
    limit: float = LIMIT_SECONDS

    def run(self, port: int) -> tuple[Counter[str], list[float]]:
        statuses: Counter[str] = Counter()
        times: list[float] = []
        with selectors.DefaultSelector() as selector:
            for _ in range(self.count):
                self._open(selector, port, self.again)
            began = dropped = time.monotonic()
            while selector.get_map() and time.monotonic() - began < 60:
                for key, _ in selector.select(0.1):
                    client, (opened, left, answer) = key.fileobj, key.data
                    assert isinstance(client, socket.socket)
                    try:
                        data = client.recv(65536)
                    except OSError:
                        data = b""
                    answer += data[:64]
                    if data and not (self.first_byte and answer):
                        continue
                    statuses[bytes(answer[9:12]).decode("ascii", "replace") or "none"] += 1
                    times.append(time.monotonic() - opened)
                    selector.unregister(client)
                    client.close()
                    if left:
                        self._open(selector, port, left - 1)
                if self.drops and time.monotonic() - dropped > 1:
                    dropped = time.monotonic()
                    for key in list(selector.get_map().values()):
                        with suppress(OSError):
                            key.fileobj.send(self.drops)  # type: ignore[union-attr]
            for key in list(selector.get_map().values()):
                statuses["none"] += 1
                key.fileobj.close()  # type: ignore[union-attr]
        return statuses, sorted(times)

    def _open(self, selector: selectors.BaseSelector, port: int, left: int) -> None:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(self.request)
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, (time.monotonic(), left, bytearray()))


@dataclass(frozen=True)
class Filled:
    """What the server has: `cookie` and `token` are those of the loads, `persons_cookie` is another person's."""

    cookie: str
    persons_cookie: str
    token: str
    slug: str
    job: int


def request(method: str, path: str, *headers: str, length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, f"Content-Length: {length}", "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database; without it SQLite")
    parser.add_argument("--processes", type=int, default=1, help="web processes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        os.environ |= {
            "PREFLOOP_DATA_DIR": folder,
            "PREFLOOP_DATABASE_URL": given.database,
            "PREFLOOP_PORT": str(port),
            "PREFLOOP_WEB_WORKERS": str(given.processes),
            "PREFLOOP_CLIENT_SECONDS": str(CLIENT_SECONDS),
        }
        filled = _fill()
        with (Path(folder) / "web.log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"], stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait_until_it_answers(port, server)
            kind = "PostgreSQL" if given.database else "SQLite"
            print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
            print(f"{kind}, {given.processes} web process(es)\n")
            return _measure(port, filled)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def _fill() -> Filled:
    """Two people's cookies, a token, a project, and a run that waits for a worker."""
    from app.config import get_settings
    from app.db import get_engine, write_session
    from app.models import JobKind, Role, TrainingRun
    from app.ops import migrate
    from app.security import cookie_name
    from app.services.accounts import sessions, tokens
    from app.services.jobs import jobs
    from app.services.training import run_settings
    from tests.factory import Factory

    settings = get_settings()
    engine = get_engine(settings)
    migrate.upgrade(engine)
    factory = Factory(engine, settings)
    admin, person = factory.user(Role.ADMIN), factory.user(Role.ADMIN)
    project = factory.judged()
    snapshot = factory.snapshot(project)
    with write_session(engine) as session:
        cookies = [
            f"{cookie_name(settings)}={sessions.start(session, user=session.merge(user))}" for user in (admin, person)
        ]
        _, token = tokens.create(session, user=session.merge(admin), name="bench")
        job, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=session.merge(admin))
        session.add(
            TrainingRun(job_id=job.id, snapshot_id=snapshot.id, base_model="none", config=run_settings.validate({}))
        )
        job_id = job.id
    engine.dispose()
    return Filled(cookies[0], cookies[1], token, project.slug, job_id)


def _wait_until_it_answers(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60):
            return
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


def _measure(port: int, filled: Filled) -> int:
    unknown = f"Cookie: {filled.cookie.partition('=')[0]}={'x' * 43}"
    loads = [
        Load("POST", 200, request("POST", "/account/sessions/revoke-others", unknown, "Sec-Fetch-Site: none")),
        Load("GET", 400, request("GET", "/projects", unknown)),
        Load(
            "stream",
            400,
            request("GET", f"/jobs/{filled.job}/stream", f"Cookie: {filled.cookie}"),
            first_byte=True,
            again=2,
        ),
        Load(
            "slow upload",
            200,
            request(
                "POST",
                f"/api/v1/projects/{filled.slug}/import",
                f"Authorization: Bearer {filled.token}",
                length=1_000_000,
            ),
            first_byte=True,
            drops=b"{",
            limit=UPLOADS_END_SECONDS,
        ),
    ]
    person = Person(port, filled.persons_cookie, ("/", "/account", f"/jobs/{filled.job}"))
    print("| load | answers | first s | median s | last s | person's pages | median s | slowest s |")
    print("|---|---|---:|---:|---:|---|---:|---:|")
    good = True
    for load in loads:
        with person.beside():
            time.sleep(0.5)
            statuses, times = load.run(port)
        pages = sorted(person.seconds) or [float("inf")]
        told = ", ".join(f"{count} × {status}" for status, count in statuses.most_common())
        seen = ", ".join(f"{count} × {status}" for status, count in person.statuses.most_common())
        print(
            f"| {load.count} × {load.name} | {told} | {times[0]:.1f} | {times[len(times) // 2]:.1f} | {times[-1]:.1f} "
            f"| {seen} | {pages[len(pages) // 2]:.2f} | {pages[-1]:.2f} |",
            flush=True,
        )
        bad = [status for status in statuses if status == "none" or status.startswith("5")]
        good = good and not bad and times[-1] <= load.limit and set(person.statuses) == {200}
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
