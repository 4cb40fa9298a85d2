"""How fast an import is, how much memory it takes, and how long judgments take beside one.

    python -m bench.import_speed [--lines 50000] [--databases sqlite postgresql] [--full 0] [--judges 20]

Each figure by one command: lines a second and memory, `--judges 0`; the same in a large project, `--judges 0 --full 200000`; how long
people who judge wait beside an import, `--lines 20000` (its second table).

Each database is a fresh one on this machine's disk that waits for the disk at each commit. A process of its own imports
the lines twice (new, then all duplicates) and tells its peak memory; `--full`: so many pairs are there before. Then a server
of its own imports the same lines while people judge: so many judgments a second arrive at random moments (Poisson), each the
page's own request whose answer holds the next pair, and latency counts from the moment at which it was due. Lines are about
900 bytes, half of them judged, their words drawn as often as words of English are (Zipf).
"""

import argparse
import http.client
import json
import os
import platform
import queue
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services_for_tests import free_port, postgresql

VOCABULARY = 30_000
OTHER_PAIRS = 2_000
TOKEN = re.compile(rb'name="token" value="([^"]+)"')


def words(draw: random.Random, count: int) -> str:
    """Words by Zipf's law: the nth most frequent is drawn 1/n as often as the first."""
    return " ".join(f"w{int(VOCABULARY ** draw.random()):x}" for _ in range(count))


def write_lines(path: Path, count: int, seed: int = 0) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            prompt, one, other = (words(draw, length) for length in (40, 60, 80))
            answers = {"chosen": one, "rejected": other} if number % 2 else {"responses": [one, other]}
            file.write(json.dumps({"prompt": f"{number}: {prompt}", **answers}) + "\n")


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """A fresh database's URL."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    with postgresql(durable=True) as url:
        yield url


def alone(url: str, folder: Path, lines: int, full: int) -> None:
    """In a process of its own, which starts as `prefloop` does: imports and tells."""
    from app.starting import importing

    with importing():
        from app.config import Settings
        from app.db import make_engine, write_session
        from app.ops import migrate
        from app.services.accounts import users
        from app.services.collecting import projects
        from app.services.collecting.imports import load

    engine, settings = make_engine(url), Settings(data_dir=folder)
    migrate.upgrade(engine)
    with write_session(engine) as session:
        user = users.create(session, username="bench", display_name="Bench", role="engineer")
        project = projects.create(session, slug="bench", name="Bench", by=user)
    for what in ("full", "new", "duplicates") if full else ("new", "duplicates"):
        path = folder / ("full.jsonl" if what == "full" else "lines.jsonl")
        began, worked = time.perf_counter(), time.process_time()
        with path.open("rb") as stream:
            row = load.load(
                engine, project_id=project.id, user_id=user.id, stream=stream, filename=what, settings=settings
            )
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        count = full if what == "full" else lines
        assert (row.duplicates if what == "duplicates" else row.added) == count and not row.rejected
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        there = full if full and what != "full" else 0
        print(
            f"| {engine.dialect.name} | {what} | {count:,} | {there:,} | {count / seconds:,.0f} "
            f"| {1e6 * worked / count:.0f} | {peak:,.0f} |",
            flush=True,
        )


class Evaluator:
    """One signed-in person with a kept-alive connection and the token of the pair before them."""

    def __init__(self, port: int, cookie: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
        self.token = self._token("GET")

    def judge(self) -> None:
        form = {"token": self.token, "choice": random.choice(("left", "right")), "seen_guidelines": "0"}
        self.token = self._token("POST", urllib.parse.urlencode(form))

    def _token(self, method: str, body: str | None = None) -> str:
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        self.connection.request(method, "/projects/judged/compare", body, self.headers | kind)
        reply = self.connection.getresponse()
        text = reply.read()
        match = TOKEN.search(text)
        if reply.status != 200 or not match:
            raise RuntimeError(f"{reply.status}: {text[:200]!r}")
        return match[1].decode()


def judge_until(over: threading.Event, evaluators: list[Evaluator], rate: float) -> list[float]:
    """Seconds from the moment at which each judgment was due to its answer."""
    idle: queue.Queue[Evaluator] = queue.Queue()
    due: queue.Queue[float | None] = queue.Queue()
    for evaluator in evaluators:
        idle.put(evaluator)
    seconds: list[float] = []

    def work() -> None:
        while (moment := due.get()) is not None:
            evaluator = idle.get()
            evaluator.judge()
            seconds.append(time.monotonic() - moment)
            idle.put(evaluator)

    threads = [threading.Thread(target=work) for _ in evaluators]
    for thread in threads:
        thread.start()
    draw, moment = random.Random(0), time.monotonic()
    while not over.is_set():
        moment += draw.expovariate(rate)
        time.sleep(max(0.0, moment - time.monotonic()))
        due.put(moment)
    for _ in threads:
        due.put(None)
    for thread in threads:
        thread.join()
    return sorted(seconds)


def beside(url: str, folder: Path, lines: int, rate: float) -> None:
    """Imports into a server while people judge at it, and says how long they waited; before that without an import."""
    port = free_port()
    os.environ |= {
        "PREFLOOP_DATA_DIR": str(folder),
        "PREFLOOP_DATABASE_URL": "" if url.startswith("sqlite") else url,
        "PREFLOOP_PORT": str(port),
    }
    cookies, token, kind = _fill()
    with (folder / "web.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(port, server)
        evaluators = [Evaluator(port, cookie) for cookie in cookies]
        _tell(kind, "nothing", rate, _while(evaluators, rate, lambda: time.sleep(10)), None)
        began = time.monotonic()
        seconds = _while(evaluators, rate, lambda: _upload(port, token, folder / "lines.jsonl"))
        _tell(kind, "an import", rate, seconds, lines / (time.monotonic() - began))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _while(evaluators: list[Evaluator], rate: float, action: "object") -> list[float]:
    over = threading.Event()
    seconds: list[float] = []
    judging = threading.Thread(target=lambda: seconds.extend(judge_until(over, evaluators, rate)))
    judging.start()
    try:
        action()  # type: ignore[operator]
    finally:
        over.set()
        judging.join()
    return sorted(seconds)


def _tell(kind: str, what: str, rate: float, seconds: list[float], speed: float | None) -> None:
    def at(share: float) -> str:
        return f"{1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))]:.0f}"

    told = f"{speed:,.0f}" if speed else ""
    print(f"| {kind} | {what} | {rate:g} | {len(seconds)} | {at(0.5)} | {at(0.95)} | {at(0.99)} | {told} |", flush=True)


def _upload(port: int, token: str, path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=400)
    with path.open("rb") as file:
        headers = {"Authorization": f"Bearer {token}", "Content-Length": str(path.stat().st_size)}
        connection.request("POST", "/api/v1/projects/imported/import", file, headers)
        reply = connection.getresponse()
        told = json.loads(reply.read())
    if reply.status != 200 or told["rejected"]:
        raise RuntimeError(f"{reply.status}: {told}")


def _fill() -> tuple[list[str], str, str]:
    """(cookies of twenty evaluators, an engineer's token, the database's kind); one project to judge, one to import into."""
    from app.config import get_settings
    from app.db import get_engine, write_session
    from app.models import Role
    from app.ops import migrate
    from app.security import cookie_name
    from app.services.accounts import sessions, tokens, users
    from app.services.collecting import pairs, projects
    from app.services.collecting.pairs import NewPair

    settings = get_settings()
    engine = get_engine(settings)
    migrate.upgrade(engine)
    with write_session(engine) as session:
        engineer = users.create(session, username="importer", display_name="Importer", role=Role.ENGINEER)
        for slug in ("judged", "imported"):
            projects.create(
                session, slug=slug, name=slug, by=engineer, open_to_everybody=True, judgments_per_comparison=3
            )
        draw = random.Random(1)
        waiting = [
            NewPair([{"role": "user", "content": words(draw, 40)}], (words(draw, 60), words(draw, 80)))
            for _ in range(OTHER_PAIRS)
        ]
        pairs.add_many(session, project=projects.get(session, "judged"), pairs=waiting)
        people = [
            users.create(session, username=f"judge-{number}", display_name="Judge", role=Role.EVALUATOR)
            for number in range(20)
        ]
        cookies = [f"{cookie_name(settings)}={sessions.start(session, user=person)}" for person in people]
        _, token = tokens.create(session, user=engineer, name="bench")
    kind = engine.dialect.name
    engine.dispose()
    return cookies, token, kind


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


def _child(what: str, url: str, folder: str, given: argparse.Namespace) -> None:
    numbers = [str(number) for number in (given.lines, given.full, given.judges)]
    options = ["--lines", numbers[0], "--full", numbers[1], "--judges", numbers[2]]
    subprocess.run(
        [sys.executable, "-m", "bench.import_speed", "--child", what, "--url", url, "--folder", folder, *options],
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--full", type=int, default=0, help="pairs that the project has before")
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--judges", type=float, default=20, help="judgments a second beside an import; 0: none")
    for name in ("--child", "--url", "--folder"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder = Path(given.folder)
        if given.child == "alone":
            alone(given.url, folder, given.lines, given.full)
        else:
            beside(given.url, folder, given.lines, given.judges)
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}\n", flush=True)
    with tempfile.TemporaryDirectory() as lines:
        write_lines(Path(lines) / "lines.jsonl", given.lines)
        if given.full:
            write_lines(Path(lines) / "full.jsonl", given.full, seed=1)
        print("| database | lines | count | pairs before | lines/s | CPU µs/line | peak MiB |")
        print("|---|---|---:|---:|---:|---:|---:|", flush=True)
        for what in ("alone", "beside") if given.judges else ("alone",):
            if what == "beside":
                print("\n| database | judgments beside | a second | made | p50 ms | p95 ms | p99 ms | lines/s |")
                print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
            for kind in given.databases:
                with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as url:
                    for path in Path(lines).glob("*.jsonl"):
                        (Path(folder) / path.name).symlink_to(path)
                    _child(what, url, folder, given)


if __name__ == "__main__":
    main()
