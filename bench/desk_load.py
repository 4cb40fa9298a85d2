"""What people who judge cost and how long they wait: `python -m bench.desk_load [--databases sqlite postgres] [--comparisons 1000 50000 1000000]`.

Starts web servers of its own on loopback, on databases that it fills itself with real pairs, numbered so that no text was rendered
before; three judgments are wanted of each pair. Per database and size, each against a server that was just started:

- saturated: everybody (100) judges without a pause, each answer brings the next pair
- random: 20 judgments a second that come when they come (Poisson); the latency counts from when each was due
- peers: 20 evaluators judge 1,000 pairs once each, until none is left

`--tree` measures another checkout of this project (same Python, other code). `--folder` keeps the databases for the next call.
CPU is user + system time of the web server's processes. Exit 1 where a judgment was lost, or one place filled twice.
"""

import argparse
import gzip
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

from app.paths import ROOT
from bench.evaluators import Plan
from tests.services_for_tests import free_port, postgresql

HH_FILE = ROOT.parent / "shared" / "data" / "hh-harmless-1.jsonl.gz"
SECRET = "bench-" * 8
EVALUATORS = 100
PEERS, PEERS_PAIRS = 20, 1_000
# Runs in the measured checkout, of today or of before: makes people, projects and signed-in browsers through its own services.
ANY_PORT = "43210"
PREPARE = """
import json, sys
from app.config import get_settings
from app.db import get_engine, write_session
from app.security import cookie_name
try:
    from app.services.accounts import sessions, users
    from app.services.collecting import projects
except ImportError:
    from app.services import projects, sessions, users
settings = get_settings()
with write_session(get_engine(settings)) as session:
    admin = users.create(session, username="admin", display_name="Admin", role="admin")
    made = [projects.create(session, slug=slug, name=slug, by=admin, guidelines="Pick the better answer.", daily_goal=0,
                            judgments_per_comparison=wanted) for slug, wanted in (("desk", 3), ("peers", 1))]
    for project in made:
        project.open_to_everybody = True  # earlier versions know no members and don't keep it
    ids = [project.id for project in made]
    people = [users.create(session, username=f"e{n}", display_name=f"E{n}", role="evaluator") for n in range(int(sys.argv[1]))]
    tokens = [sessions.start(session, user=person) for person in people]
print(json.dumps({"ids": ids, "cookies": [f"{cookie_name(settings)}={token}" for token in tokens]}))
"""


@dataclass
class Site:
    """An installation: a checkout, its data folder and its database."""

    tree: Path
    data: Path
    database: str
    processes: int

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFLOOP_")}
        return kept | {
            "PYTHONPATH": str(self.tree),
            "PREFLOOP_DATA_DIR": str(self.data),
            "PREFLOOP_DATABASE_URL": self.database,
            "PREFLOOP_SECRET_KEY": SECRET,
            "PREFLOOP_WEB_WORKERS": str(self.processes),
            "PREFLOOP_PORT": ANY_PORT,
        }

    def run(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, *words], cwd=self.tree, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    @contextmanager
    def serving(self) -> Iterator[tuple[int, psutil.Process]]:
        port = free_port()
        with (self.data / "web.log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                cwd=self.tree,
                env=self.environment | {"PREFLOOP_PORT": str(port)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            for _ in range(600):
                if server.poll() is not None:
                    break
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60):
                    time.sleep(1)  # the other processes
                    yield port, psutil.Process(server.pid)
                    return
                time.sleep(0.1)
            raise RuntimeError(f"the server did not start: see {self.data / 'web.log'}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


class Rows:
    """The database as the bench itself sees it, in plain SQL that both understand."""

    def __init__(self, site: Site) -> None:
        self.is_sqlite = site.database.startswith("sqlite")
        if self.is_sqlite:
            self.connection: Any = sqlite3.connect(site.database.removeprefix("sqlite:///"), isolation_level=None)
            self.connection.execute("PRAGMA synchronous=OFF")
            self.connection.execute("PRAGMA cache_size=-400000")
        else:
            import psycopg

            self.connection = psycopg.connect(site.database.replace("+psycopg", ""), autocommit=True)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, sql: str, *values: Any) -> list[Any]:
        with closing(self.connection.cursor()) as cursor:
            if self.is_sqlite:
                cursor.execute(sql, values)
            else:
                cursor.execute(sql.replace("?", "%s") if values else sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> set[str]:
        if self.is_sqlite:
            return {row[1] for row in self.ask(f"PRAGMA table_info({table})")}
        return {
            row[0] for row in self.ask("SELECT column_name FROM information_schema.columns WHERE table_name = ?", table)
        }


def real_pairs() -> list[tuple[str, str, str]]:
    """(prompt as JSON with @N@ where the number comes, first answer, second answer)."""
    from app.services.collecting.imports.reading.forms import parse
    from app.services.collecting.messages import Unfit

    pairs = []
    with gzip.open(HH_FILE) as lines:
        for line in lines:
            with suppress(Unfit):
                pair = parse(line)[0].pair
                messages = [dict(message) for message in pair.prompt]
                messages[-1]["content"] += " (pair @N@)"
                pairs.append((json.dumps(messages), *pair.responses))
    return pairs


def fill(rows: Rows, project_id: int, count: int, wanted: int, first: int) -> None:
    """`count` comparisons with ids from `first`, their slots open, straight into the tables."""
    numbers = (
        f"(WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s WHERE n < {first + count - 1}) SELECT n FROM s)"
        if rows.is_sqlite
        else f"(SELECT generate_series({first}, {first + count - 1}) AS n)"
    )
    total = rows.ask("SELECT count(*) FROM bench_pairs")[0][0]
    key = "printf('%064d', n)" if rows.is_sqlite else "lpad(n::text, 64, '0')"
    numbered = f"{numbers} AS numbers JOIN bench_pairs ON bench_pairs.i = n % {total}"
    now = "'2026-01-01 00:00:00.000000'" if rows.is_sqlite else "now()"
    json_of = "replace(prompt, '@N@', CAST(n AS TEXT))" + ("" if rows.is_sqlite else "::jsonb")
    put(rows, "prompts", numbered, id="n", project_id=project_id, content_hash=key, messages=json_of,
        split="CASE WHEN n % 10 = 0 THEN 'eval' ELSE 'train' END", created_at=now)  # fmt: skip
    for offset, answer in ((1, "one"), (0, "other")):
        text = f"{answer} || ' (answer ' || CAST(2 * n - {offset} AS TEXT) || ')'"
        put(rows, "responses", numbered, id=f"2 * n - {offset}", prompt_id="n",
            content_hash=key.replace("n)", f"2 * n - {offset})") if rows.is_sqlite else f"lpad((2 * n - {offset})::text, 64, '0')",
            text=text, characters=f"length({answer})", words=f"length({answer}) / 6", source_kind="'file'", source_name="''",
            created_at=now)  # fmt: skip
    put(rows, "comparisons", f"{numbers} AS numbers", id="n", project_id=project_id, prompt_id="n", first_response_id="2 * n - 1",
        second_response_id="2 * n", pair_hash=key, priority="0", created_at=now)  # fmt: skip
    for ordinal in range(1, wanted + 1):
        place = f"(64000000 + {ordinal}) * CAST(2147483648 AS BIGINT) + n"
        put(rows, "slots", f"{numbers} AS numbers", project_id=project_id, comparison_id="n", ordinal=ordinal, priority="0",
            rank="0", state="'open'", place=place)  # fmt: skip
    if rows.columns("project_counts"):
        rows.ask(
            "UPDATE project_counts SET comparisons = ?, evals = ?, wanted = ?, offered = ? WHERE project_id = ?",
            count, sum(n % 10 == 0 for n in range(first, first + count)), wanted * count, count, project_id,
        )  # fmt: skip


def put(rows: Rows, table: str, source: str, **values: Any) -> None:
    """INSERT … SELECT of those columns that this version has."""
    known = {name: value for name, value in values.items() if name in rows.columns(table)}
    rows.ask(f"INSERT INTO {table} ({', '.join(known)}) SELECT {', '.join(map(str, known.values()))} FROM {source}")


def prepare(site: Site, comparisons: int) -> dict[str, Any]:
    """Makes the installation, or takes the one that is there."""
    facts = site.data / "facts.json"
    if facts.exists():
        return json.loads(facts.read_text())
    site.data.mkdir(parents=True, exist_ok=True)
    site.run("-m", "app.cli", "migrate")
    prepared = json.loads(site.run("-c", PREPARE, str(EVALUATORS)).splitlines()[-1])
    began = time.monotonic()
    with Rows(site) as rows:
        rows.ask("CREATE TABLE bench_pairs (i INTEGER PRIMARY KEY, prompt TEXT, one TEXT, other TEXT)")
        for number, pair in enumerate(real_pairs()):
            rows.ask("INSERT INTO bench_pairs VALUES (?, ?, ?, ?)", number, *pair)
        if not rows.is_sqlite:
            rows.ask("SET session_replication_role = replica")  # no check of each foreign key
        rows.ask("BEGIN")
        fill(rows, prepared["ids"][0], comparisons, 3, 1)
        fill(rows, prepared["ids"][1], PEERS_PAIRS, 1, comparisons + 1)
        rows.ask("COMMIT")
        if not rows.is_sqlite:
            for table in ("prompts", "responses", "comparisons"):
                rows.ask(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
            rows.ask("VACUUM ANALYZE")
            rows.ask("CHECKPOINT")  # or the load would wait for the disk, which still writes what was filled
    print(f"filled {site.data.name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    facts.write_text(json.dumps(prepared))
    return prepared


def cpu_seconds(server: psutil.Process) -> float:
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def load(site: Site, plan: Plan) -> dict[str, Any]:
    """Carries a plan out against a fresh server; adds the server's CPU time and what the database says of it."""
    with site.serving() as (port, server):
        # The name of the cookie holds the port: here that of the server of this load.
        named = [cookie.partition("=") for cookie in plan.cookies]
        plan.cookies = [f"{name.replace(ANY_PORT, str(port))}={token}" for name, _, token in named]
        plan.port = port
        people = subprocess.Popen(
            [sys.executable, "-m", "bench.evaluators"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert people.stdin and people.stderr and people.stdout
        people.stdin.write(json.dumps(asdict(plan)))
        people.stdin.close()
        marks = {}
        for line in people.stderr:
            if line.strip() in ("begin", "end"):
                marks[line.strip()] = cpu_seconds(server)
            elif line.strip() != "ready":
                print(line, end="", file=sys.stderr)
            if "end" in marks:
                break  # the outcome comes next, and is larger than what a pipe holds
        outcome = json.loads(people.stdout.read())
        people.wait()
    with Rows(site) as rows:
        stored = {row[0] for row in rows.ask("SELECT lease_token FROM judgments WHERE lease_token IS NOT NULL")}
        lost = [token for token in outcome["acknowledged"] if token not in stored]
        doubled = rows.ask(
            "SELECT count(*) FROM (SELECT comparison_id, user_id FROM judgments WHERE NOT superseded "
            "GROUP BY comparison_id, user_id HAVING count(*) > 1) AS twice"
        )[0][0]
        doubled += rows.ask(
            "SELECT count(*) FROM (SELECT slot_id FROM judgments WHERE NOT superseded AND slot_id IS NOT NULL "
            "GROUP BY slot_id HAVING count(*) > 1) AS twice"
        )[0][0]
    return outcome | {"cpu": marks["end"] - marks["begin"], "lost": len(lost), "doubled": doubled}


HEAD = (
    "| code | database | comparisons | processes | load | judgments | CPU ms each | a second | p50 ms | p95 ms | p99 ms | p99 ÷ mean "
    "| slowest ÷ median evaluator | not 200 | lost | doubled |\n|---|---|---:|---:|---|" + "---:|" * 11
)


def row(site: Site, name: str, database: str, comparisons: int, outcome: dict[str, Any]) -> tuple[str, bool]:
    times = sorted(outcome["latencies"])
    count = len(times) or 1
    p50, p95, p99 = (
        1000 * times[min(count - 1, int(count * share))] if times else float("nan") for share in (0.5, 0.95, 0.99)
    )
    mean = 1000 * fmean(times) if times else float("nan")
    judged = outcome["judged"]
    fairness = f"{min(judged) / median(judged):.2f}" if name == "saturated" and median(judged) else "–"
    other = {status: number for status, number in outcome["statuses"].items() if status not in ("200", "reconnected")}
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=site.tree, stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    text = (
        f"| {revision} | {database} | {comparisons:,} | {site.processes} | {name} | {len(times):,} | {1000 * outcome['cpu'] / count:.1f} "
        f"| {len(times) / outcome['seconds']:.0f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {p99 / mean:.1f} | {fairness} "
        f"| {other or 0} | {outcome['lost']} | {outcome['doubled']} |"
    )
    return text, not outcome["lost"] and not outcome["doubled"]


@contextmanager
def database_for(kind: str, folder: Path, name: str, stack: dict[str, str]) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / name / 'prefloop.db'}"
        return
    import psycopg

    url = stack["postgres"]
    with (
        psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection,
        suppress(psycopg.errors.DuplicateDatabase),
    ):
        connection.execute(f"CREATE DATABASE {name.replace('-', '_')}")
    yield url.rpartition("/")[0] + f"/{name.replace('-', '_')}"


def measure(given: argparse.Namespace, folder: Path) -> bool:
    good = True
    with ExitStack() as stack:
        servers = {}
        if "postgres" in given.databases:
            servers["postgres"] = stack.enter_context(postgresql(folder / "postgres", durable=True))
        for kind in given.databases:
            for comparisons in given.comparisons:
                name = f"{given.name}-{kind}-{comparisons}"
                with database_for(kind, folder, name, servers) as url:
                    processes = given.web_processes or (1 if kind == "sqlite" else 2)
                    site = Site(given.tree, folder / name, url, processes)
                    prepared = prepare(site, comparisons)
                    if given.prepare_only:
                        continue
                    cookies = prepared["cookies"][: given.evaluators]
                    plans = {
                        "saturated": Plan(0, "desk", cookies, given.seconds),
                        "random": Plan(0, "desk", cookies, given.seconds, rate=given.rate),
                        "peers": Plan(0, "peers", cookies[:PEERS], 0, warm=0, until_empty=True, skips=False),
                    }
                    for load_name in given.loads:
                        text, is_whole = row(site, load_name, kind, comparisons, load(site, plans[load_name]))
                        print(text, flush=True)
                        good = good and is_whole
    return good


def hardware() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    parser.add_argument("--comparisons", nargs="+", type=int, default=[1_000, 50_000, 1_000_000])
    parser.add_argument(
        "--loads", nargs="+", choices=["saturated", "random", "peers"], default=["saturated", "random", "peers"]
    )
    parser.add_argument("--evaluators", type=int, default=EVALUATORS, help="who judge, but for the peers")
    parser.add_argument("--web-processes", type=int, default=0, help="by default 1 on SQLite, 2 on PostgreSQL")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--rate", type=float, default=20.0, help="judgments a second of the random load")
    parser.add_argument("--tree", type=Path, default=ROOT, help="another checkout to measure")
    parser.add_argument("--folder", type=Path, help="keep the databases here")
    parser.add_argument("--prepare-only", action="store_true", help="fill the databases and stop")
    given = parser.parse_args()
    given.tree = given.tree.resolve()
    given.name = "now" if given.tree == ROOT else "before"
    print(f"{hardware()}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL runs as another account where this is root's
        return 0 if measure(given, given.folder or Path(temporary)) else 1


if __name__ == "__main__":
    sys.exit(main())
