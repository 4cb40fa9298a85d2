"""What a million comparisons cost: a snapshot of them, and every page: `python -m bench.million [--comparisons N] [--database KIND]`.

Fills a fresh database by statements of its own: N comparisons with three wanted judgments each, the first third of them judged three times
(N judgments in all) by twenty evaluators. Then a process of its own freezes a snapshot and tells its time and peak memory, and a server of
its own answers each page three times, of which the slowest is told. Figures that are computed in the background are waited for once.
"""

import argparse
import http.client
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.services_for_tests import free_port, postgresql

EVALUATORS = 20
TIMES = 3
FILLER = (
    "please tell me how the parcel that I ordered last week can be sent to another address than the one on the invoice "
)
LIMIT_SECONDS = 1.0


def fill(count: int) -> dict[str, str]:
    """A migrated database with all that pages show; cookies and tokens of an engineer and of an evaluator."""
    from app.config import get_settings
    from app.db import get_engine, write_session
    from app.models import Role
    from app.ops import migrate
    from app.security import cookie_name
    from app.services.accounts import sessions, tokens, users
    from app.services.collecting import projects, recount

    settings = get_settings()
    engine = get_engine(settings)
    migrate.upgrade(engine)
    given = {}
    with write_session(engine) as session:
        engineer = users.create(session, username="engineer", display_name="Engineer", role=Role.ENGINEER)
        people = [
            users.create(session, username=f"judge-{number}", display_name=f"Judge {number}", role=Role.EVALUATOR)
            for number in range(EVALUATORS)
        ]
        admin = users.create(session, username="admin", display_name="Admin", role=Role.ADMIN)
        projects.create(session, slug="small", name="Small", by=engineer)
        project = projects.create(
            session, slug="big", name="Big", by=engineer, open_to_everybody=True, judgments_per_comparison=3
        )
        for name, person in (("engineer", engineer), ("evaluator", people[0]), ("admin", admin)):
            given[name] = f"{cookie_name(settings)}={sessions.start(session, user=person)}"
        _, given["token"] = tokens.create(session, user=engineer, name="bench")
        numbers = {"project": project.id, "first": people[0].id, "engineer": engineer.id, "count": count}
    began = time.monotonic()
    _generate(engine, numbers)
    with write_session(engine) as session:
        recount.repair(session, project_id=numbers["project"])
    print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
    engine.dispose()
    return given


def _generate(engine: Any, numbers: dict[str, int]) -> None:
    """The rows, made by the database itself."""
    from app.services.collecting.places import place_of

    is_postgresql = engine.dialect.name == "postgresql"
    if is_postgresql:
        source = "generate_series(1, :count) AS numbers(n)"
        digits = "lpad(to_hex({}::bigint), 64, '0')"
        json, now, false = "CAST({} AS jsonb)", "now()", "false"
    else:
        source = "(WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < :count) SELECT n FROM up)"
        digits, json, now, false = "printf('%064x', {})", "{}", "'2026-01-01 00:00:00.000000'", "0"
    text = f"'Answer ' || {{}} || ' to ' || n || ': {FILLER}{FILLER}'"
    empty, mapping = json.format("'[]'"), json.format("'{}'")
    report = json.format("""'{"recognised": "", "columns": {}, "notes": {}, "differences": []}'""")
    asked = json.format(f"""'[{{"role": "user", "content": "Question ' || n || ': {FILLER}"}}]'""")
    statements = [
        "INSERT INTO imports (id, project_id, user_id, filename, upload, state, lines, added, judged, duplicates, filled, rejected, rejections,"
        " mapping, report, stop_requested, error, started_at, updated_at) VALUES (1, :project, :engineer, 'big.jsonl', '', 'done', :count,"
        f" :count, 0, 0, 0, 0, {empty}, {mapping}, {report}, {false}, '', {now}, {now})",
        "INSERT INTO prompts (id, project_id, content_hash, messages, split, created_at)"
        f" SELECT n, :project, {digits.format('n')}, {asked},"
        f" CASE WHEN n % 10 = 0 THEN 'eval' ELSE 'train' END, {now} FROM {source}",
        *(
            "INSERT INTO responses (id, prompt_id, content_hash, text, characters, words, source_kind, source_name, created_at)"
            f" SELECT 2 * n - {1 - side}, n, {digits.format(f'2 * n - {1 - side}')}, {text.format(side + 1)}, 240 + n % 7 * {side}, 48 + n % 3,"
            f" 'model', 'model-{'ab'[side]}', {now} FROM {source}"
            for side in (0, 1)
        ),
        "INSERT INTO comparisons (id, project_id, prompt_id, first_response_id, second_response_id, pair_hash, priority, import_id, created_at)"
        f" SELECT n, :project, n, 2 * n - 1, 2 * n, {digits.format('n')}, 0, 1, {now} FROM {source}",
        *(
            "INSERT INTO slots (id, project_id, comparison_id, ordinal, priority, place, state, holder_id)"
            f" SELECT 3 * n - {3 - ordinal}, :project, n, {ordinal}, 0, {place_of(0, ordinal, 0)} + n, CASE WHEN n <= :count / 3 THEN 'done' ELSE 'open' END,"
            f" CASE WHEN n <= :count / 3 THEN :first + (n + {ordinal}) % {EVALUATORS} END FROM {source}"
            for ordinal in (1, 2, 3)
        ),
        *(
            "INSERT INTO judgments (id, project_id, comparison_id, slot_id, user_id, choice, rationale, flags, first_side, shown_at,"
            " submitted_at, guideline_version, source, late, superseded)"
            f" SELECT 3 * n - {3 - ordinal}, :project, n, 3 * n - {3 - ordinal}, :first + (n + {ordinal}) % {EVALUATORS},"
            f" CASE WHEN n % 7 = {ordinal} THEN 'second' ELSE 'first' END, '', {empty},"
            f" CASE WHEN n % 2 = 0 THEN 'left' ELSE 'right' END, {now}, {now}, 0, 'web', {false}, {false}"
            f" FROM {source} WHERE n <= :count / 3"
            for ordinal in (1, 2, 3)
        ),
    ]
    _run(engine, [(statement, numbers) for statement in statements])


def _run(engine: Any, statements: list[tuple[str, dict[str, int]]]) -> None:
    from sqlalchemy import text

    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET session_replication_role = replica"))  # whoever fills knows its keys
            connection.commit()
        for statement, numbers in statements:
            wanted = {name: value for name, value in numbers.items() if f":{name}" in statement}
            connection.execute(text(statement), wanted)
            connection.commit()
        if engine.dialect.name == "postgresql":
            for table in ("prompts", "responses", "comparisons", "slots", "judgments", "imports"):
                connection.execute(text(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"))
            connection.execute(text("SET session_replication_role = DEFAULT"))
            connection.commit()
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def freeze() -> None:
    """In a process of its own: freezes a snapshot of the big project and tells what it took."""
    from app.config import get_settings
    from app.db import get_engine, read_session
    from app.services.collecting import projects
    from app.services.datasets import snapshots
    from app.storage import get_storage

    settings = get_settings()
    engine = get_engine(settings)
    with read_session(engine) as session:
        project = projects.get(session, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, worked = time.monotonic(), time.process_time()
    snapshot = snapshots.freeze(engine, project=project, by_id=None, storage=get_storage(settings))
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        "\n| database | judgments | pairs | seconds | CPU seconds | peak MiB | before it MiB |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    print(
        f"| {engine.dialect.name} | {snapshot.counts.judgments:,} | {snapshot.counts.pairs:,} | {seconds:.0f} | {worked:.0f} "
        f"| {peak:,.0f} | {before:,.0f} |\n",
        flush=True,
    )


def pages(count: int) -> list[tuple[str, str]]:
    """(who asks, path) of every kind of page that shows something of a project."""
    late, big = count // 25, "/projects/big"
    asked = [
        ("engineer", path)
        for path in (
            "/",
            "/menu/projects",
            f"{big}/data",
            f"{big}/data?page={late}",
            f"{big}/data?state=waiting",
            f"{big}/data?state=judged",
            f"{big}/data?state=judged&page={late // 3}",
            f"{big}/data?split=eval",
            f"{big}/data?split=eval&state=waiting",
            f"{big}/data?source=model-a",
            f"{big}/data?source=nobody",
            f"{big}/data?text=parcel",
            f"{big}/data?text=nowhere",
            f"{big}/data?import_id=1",
            f"{big}/settings",
            f"{big}/guidelines",
            f"{big}/import",
            "/imports/1",
            f"{big}/train",
            f"{big}/train/preview?base_model=x&preset=standard&rule.min_judgments=2",
            f"{big}/runs",
            f"{big}/checkpoints",
            "/snapshots/1",
            f"/comparisons/{count // 2}",
            f"{big}/extracts",
            f"{big}/exclusions",
            f"{big}/generations",
            f"{big}/evaluations",
            f"{big}/progress",
            f"{big}/members",
        )
    ]
    asked += [("admin", path) for path in ("/people", "/audit", "/workers", "/storage")]
    asked += [
        ("evaluator", path) for path in (f"{big}/compare", f"{big}/history", f"{big}/history?page={late // EVALUATORS}")
    ]
    asked += [
        ("token", f"/api/v1{path}")
        for path in (
            "/projects",
            big,
            f"{big}/comparisons",
            f"{big}/comparisons?page={count // 50}",
            f"{big}/comparisons?state=judged",
            f"{big}/comparisons?text=nowhere",
            f"{big}/preview",
            f"{big}/progress",
            f"{big}/judgments",
            f"{big}/snapshots",
            f"{big}/imports",
        )
    ]
    return asked


def ask(port: int, given: dict[str, str], who: str, path: str) -> tuple[int, float]:
    """(status, seconds) of one page."""
    headers = {"Authorization": f"Bearer {given['token']}"} if who == "token" else {"Cookie": given[who]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    began = time.monotonic()
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status, time.monotonic() - began


def measure(port: int, given: dict[str, str], count: int) -> None:
    print("| page | status | first s | slowest of the others s |\n|---|---:|---:|---:|")
    late = 0
    for who, path in pages(count):
        asked = [ask(port, given, who, path) for _ in range(TIMES)]
        worst = max(seconds for _, seconds in asked)
        late += worst > LIMIT_SECONDS
        print(
            f"| {path} | {asked[-1][0]} | {asked[0][1]:.2f} | {max(seconds for _, seconds in asked[1:]):.2f} |"
            f"{'  <- late' if worst > LIMIT_SECONDS else ''}",
            flush=True,
        )
    print(f"\n{late} of {len(pages(count))} pages took more than {LIMIT_SECONDS:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--only", choices=["freeze", "pages"], default="")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        freeze()
        return
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; {given.database}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        if given.database == "sqlite":
            _on(Path(folder), "", given)
            return
        with postgresql(durable=True) as url:
            _on(Path(folder), url, given)


def _on(folder: Path, url: str, given: argparse.Namespace) -> None:
    port = free_port()
    os.environ |= {"PREFLOOP_DATA_DIR": str(folder), "PREFLOOP_DATABASE_URL": url, "PREFLOOP_PORT": str(port)}
    people = fill(given.comparisons)
    if given.only != "pages":
        subprocess.run([sys.executable, "-m", "bench.million", "--child"], check=True)
    if given.only == "freeze":
        return
    with (folder / "web.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        measure(port, people, given.comparisons)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


if __name__ == "__main__":
    main()
