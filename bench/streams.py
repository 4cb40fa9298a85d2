"""A thousand pages that watch one run: `python -m bench.streams [--listeners N] [--server] [--processes N]`.

Starts a web server and a worker of its own on loopback: on a fresh SQLite file, or with --server on a throw-away PostgreSQL and Redis.
The worker runs a program that prints a step a second, as the engine would. Listeners open the run page's stream, which brings the
chart points and the page's blocks. Prints how many were served whole, the time from the program's line to the point at the listener,
and what the web processes took. The listeners, the worker and the program use the same cores. Exit 1 when anybody missed a step.
"""

import argparse
import json
import os
import platform
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = """
import json, sys, time
print(json.dumps({"event": "state", "stage": "training", "total_steps": int(sys.argv[1])}), flush=True)
while not __import__("pathlib").Path(sys.argv[2]).exists():
    time.sleep(0.05)
for step in range(1, int(sys.argv[1]) + 1):
    time.sleep(1)
    figures = {"loss": 0.69 / step, "rewards/margins": step / 100, "rewards/accuracies": 0.5, "grad_norm": 1.0, "learning_rate": 1e-6}
    print(json.dumps({"event": "step", "step": step, "time": time.time(), "total_steps": int(sys.argv[1]), **figures}), flush=True)
"""
PATIENCE_SECONDS = 120


@dataclass
class Listener:
    """One page. `points`: when each came, by its event's id."""

    client: socket.socket
    left: bytes = b""
    status: str = ""
    over: bool = False
    points: dict[int, float] = field(default_factory=dict)


@dataclass
class Listeners:
    """All pages, in one thread: what they get is the same for all, so it is read once."""

    all: list[Listener] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    known: dict[bytes, list[int]] = field(default_factory=dict)

    def open(self, port: int, request: bytes, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(request)
            client.setblocking(False)
            self.all.append(Listener(client))
            self.selector.register(client, selectors.EVENT_READ, self.all[-1])

    def hear(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            listener: Listener = key.data
            try:
                data = listener.client.recv(1_000_000)
            except OSError:
                data = b""
            now = time.time()
            if not data:
                self.selector.unregister(listener.client)
                listener.client.close()
                continue
            listener.status = listener.status or data[9:12].decode("ascii", "replace")
            *whole, listener.left = (listener.left + data).split(b"\n\n")
            for message in whole:
                for number in self._points(message):
                    listener.points.setdefault(number, now)
                listener.over = listener.over or b"event: end" in message

    def _points(self, message: bytes) -> list[int]:
        _, start, rest = message.partition(b"event: points\ndata: ")
        if not start:
            return []
        if rest not in self.known:
            self.known[rest] = [point["id"] for point in json.loads(rest)]
        return self.known[rest]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--server", action="store_true", help="a throw-away PostgreSQL and Redis")
    parser.add_argument("--processes", type=int, default=1, help="web processes")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, job, cookie = _prepare(stack, folder, given)
        programs = [_start(folder, name) for name in ("serve", "worker")]
        try:
            _wait(lambda: _answers(port), programs)
            web = _web_processes(programs[0].pid, given.processes)
            print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
            kind = "PostgreSQL and Redis" if given.server else "SQLite"
            print(f"{kind}, {given.processes} web process(es), {given.listeners} listeners, a step a second\n")
            return _measure(port, job, cookie, web, folder, given)
        finally:
            for program in programs:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGTERM)
            for program in programs:
                program.wait(60)


def _prepare(stack: ExitStack, folder: Path, given: argparse.Namespace) -> tuple[int, int, str]:
    """(port, job, cookie): settings in the environment, a queued run, and somebody signed in."""
    from tests.services_for_tests import free_port, postgresql, redis_server

    command = [sys.executable, "-c", PROGRAM, str(given.steps), str(folder / "go")]
    os.environ |= {
        "PREFLOOP_DATA_DIR": str(folder),
        "PREFLOOP_PORT": str(free_port()),
        "PREFLOOP_WEB_WORKERS": str(given.processes),
        "PREFLOOP_TRAIN_LAUNCHER": shlex.join(command),
        "PREFLOOP_DATABASE_URL": stack.enter_context(postgresql()) if given.server else "",
        "PREFLOOP_REDIS_URL": "",
    }
    if given.server:
        os.environ["PREFLOOP_REDIS_URL"] = stack.enter_context(redis_server())
    from app.config import get_settings
    from app.db import get_engine, write_session
    from app.models import Role
    from app.ops import migrate
    from app.security import cookie_name
    from app.services.accounts import sessions
    from app.services.training import runs
    from tests.factory import Factory
    from tests.pretend_worker import prepare_model

    settings = get_settings()
    engine = get_engine(settings)
    migrate.upgrade(engine)
    factory = Factory(engine, settings)
    user, snapshot = factory.user(Role.ADMIN), factory.snapshot(factory.judged(12))
    prepare_model(settings)
    with write_session(engine) as session:
        token = sessions.start(session, user=session.merge(user))
        job = runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(user)
        ).job_id
    return settings.port, job, f"{cookie_name(settings)}={token}"


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "app.cli", name], stdout=log, stderr=log, start_new_session=True)


def _wait(happens: Callable[[], bool], programs: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        if any(program.poll() is not None for program in programs) or time.monotonic() > deadline:
            raise RuntimeError("the server or the worker doesn't start")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10):
        return True
    return False


def _web_processes(pid: int, count: int) -> list[int]:
    if count == 1:
        return [pid]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _cost(pids: list[int]) -> tuple[float, float]:
    """(CPU seconds, megabytes of memory) that the processes took."""
    seconds = memory = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return seconds, memory


def _measure(port: int, job: int, cookie: str, web: list[int], folder: Path, given: argparse.Namespace) -> int:
    lines = [f"GET /jobs/{job}/stream HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Cookie: {cookie}"]
    request = ("\r\n".join([*lines, "Accept: text/event-stream", "Connection: close"]) + "\r\n\r\n").encode()
    for _ in range(3):  # what a first page loads is no listener's cost
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/jobs/{job}", headers={"Cookie": cookie}), timeout=60
        ).close()
    cpu_before, memory_before = _cost(web)
    listeners = Listeners()
    began = time.monotonic()
    listeners.open(port, request, given.listeners)
    while not all(one.status for one in listeners.all) and time.monotonic() - began < PATIENCE_SECONDS:
        listeners.hear(0.2)
    opened = time.monotonic() - began
    cpu_open, _ = _cost(web)
    (folder / "go").touch()
    began = time.monotonic()
    last = given.steps + PATIENCE_SECONDS
    cpu_steps, memory, watched = cpu_open, memory_before, 0.0
    while not all(one.over for one in listeners.all) and time.monotonic() - began < last:
        listeners.hear(0.2)
        if time.monotonic() - began < given.steps:
            (cpu_steps, memory), watched = _cost(web), time.monotonic() - began
    printed = _printed(job)
    served = sum(one.status == "200" and set(printed) <= set(one.points) for one in listeners.all)
    delays = sorted(
        one.points[number] - at for one in listeners.all for number, at in printed.items() if number in one.points
    )
    whole = served == given.listeners and len(printed) == given.steps
    print(f"served whole                {served} of {given.listeners}, {len(printed)} steps each")
    print(
        f"all connected after         {opened:.1f} s ({1000 * (cpu_open - cpu_before) / given.listeners:.1f} ms of CPU each)"
    )
    if delays:
        p50, p99 = delays[len(delays) // 2], delays[int(0.99 * len(delays))]
        print(f"line to point               p50 {p50:.2f} s, p99 {p99:.2f} s, longest {delays[-1]:.2f} s")
    print(
        f"memory of the web processes {memory_before:.0f} MB, with the listeners {memory:.0f} MB "
        f"({1000 * (memory - memory_before) / given.listeners:.0f} kB each)"
    )
    print(f"CPU while steps came        {100 * (cpu_steps - cpu_open) / max(watched, 0.1):.0f} % of a core")
    return 0 if whole else 1


def _printed(job: int) -> dict[int, float]:
    """When the program printed each step, by the event's id."""
    from sqlalchemy import select

    from app.db import get_engine, read_session
    from app.models import EventType, JobEvent

    with read_session(get_engine()) as session:
        rows = session.scalars(select(JobEvent).where(JobEvent.job_id == job, JobEvent.type == EventType.STEP))
        return {row.id: row.data["time"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
