"""What a request asks of the database: as many statements in a large project as in a small one, and each by an index."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event
from starlette.testclient import TestClient

from app.db import write_session
from app.models import Project, User
from app.services.collecting import pairs
from app.services.collecting.pairs import NewPair
from tests.factory import Factory

HEADERS = {"Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
Statement = tuple[str, Any]
PAGES = (
    "/",
    "/projects",
    "/menu/projects",
    "/projects/{slug}",
    "/projects/{slug}/compare",
    "/projects/{slug}/history",
    "/projects/{slug}/data",
    "/projects/{slug}/data?state=waiting",
    "/projects/{slug}/import",
    "/projects/{slug}/settings",
    "/projects/{slug}/guidelines",
    "/projects/{slug}/runs",
    "/projects/{slug}/checkpoints",
    "/projects/{slug}/train",
    "/projects/{slug}/evaluations",
)
# Where a page shows what was collected, it reads it; the desk and the lists don't.
BY_INDEX = tuple(page for page in PAGES if "/data" not in page and "/train" not in page)
JUDGMENT_LIMIT = 16


@contextmanager
def statements() -> Iterator[list[Statement]]:
    said: list[Statement] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not statement.startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
            said.append((statement, parameters[0] if many else parameters))

    # Of every engine: the application has made its own from the one that knows the database.
    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield said
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert said, "nothing was heard"


def filled(factory: Factory, count: int, judged: int, by: User) -> Project:
    # One more than there are people, so that no judgment of theirs is a pair's last.
    project = factory.project(judgments_per_comparison=3)
    with write_session(factory.engine) as session:
        new = [NewPair([{"role": "user", "content": f"{number}?"}], ("Yes.", "No.")) for number in range(count)]
        pairs.add_many(session, project=session.merge(project), pairs=new)
    for _ in range(judged):
        assert factory.judge(project, by)
    return project


def judge(browser: TestClient, project: Project, engine: Engine) -> list[Statement]:
    """The statements of one judgment with the next pair in its answer."""
    page = browser.get(f"/projects/{project.slug}/compare").text
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token
    form = {"token": token[1], "choice": "left", "seen_guidelines": "1"}
    with statements() as said:
        reply = browser.post(f"/projects/{project.slug}/compare", data=form, headers=HEADERS)
    assert reply.status_code == 200 and "saved." in reply.text and 'name="token"' in reply.text
    return said


def test_requests_ask_as_much_in_a_large_project_as_in_a_small_one(
    factory: Factory, sign_in: Callable[[User], TestClient], engine: Engine
) -> None:
    engineer, other = factory.engineer(), factory.user()
    small, large = filled(factory, 4, 2, other), filled(factory, 300, 60, other)
    for _ in range(60):
        factory.judge(large, engineer)
    factory.judge(small, engineer)
    browser = sign_in(engineer)
    for page in PAGES:
        asked = {}
        for project in (small, large):
            with statements() as said:
                browser.get(page.format(slug=project.slug))
            asked[project.slug] = len(said)
        assert asked[small.slug] == asked[large.slug], page
    first, second = judge(browser, small, engine), judge(browser, large, engine)
    assert [statement for statement, _ in first] == [statement for statement, _ in second]
    assert len(first) <= JUDGMENT_LIMIT


def test_no_request_of_the_desk_scans_a_table_that_grows(
    factory: Factory, sign_in: Callable[[User], TestClient], engine: Engine
) -> None:
    engineer, other = factory.engineer(), factory.user()
    project = filled(factory, 600, 60, other)
    for _ in range(60):
        factory.judge(project, engineer)
    on_postgresql = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE" if on_postgresql else "SELECT 1")
    browser = sign_in(engineer)
    said = judge(browser, project, engine)
    for page in BY_INDEX:
        with statements() as asked:
            browser.get(page.format(slug=project.slug))
        said += asked
    with engine.connect() as connection:
        if on_postgresql:  # it scans a table of one page whatever indexes there are
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in dict(said).items():
            plan = _plan(connection, statement, parameters, on_postgresql)
            scanned = SCANS_OF[on_postgresql].findall(plan)
            assert not set(scanned) & {"slots", "comparisons", "prompts", "responses", "showings"}, (statement, plan)


SCANS_OF = {True: re.compile(r"Seq Scan on (\w+)"), False: re.compile(r"SCAN (\w+)")}


def _plan(connection: Any, statement: str, parameters: Any, on_postgresql: bool) -> str:
    explain = "EXPLAIN " if on_postgresql else "EXPLAIN QUERY PLAN "
    return "\n".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_scan_is_noticed(engine: Engine) -> None:
    with engine.connect() as connection:
        plan = _plan(connection, "SELECT count(*) FROM slots WHERE state = 'done'", (), False)
    assert SCANS_OF[False].findall(plan) == ["slots"]
