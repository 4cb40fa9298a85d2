"""Twenty tabs of running runs: a browser opens six connections to a server, and no page may wait for one."""

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.db import get_engine, write_session
from app.models import Project, Role, User
from app.services.training import runs
from tests.browser.conftest import PATIENCE
from tests.live import LiveServer
from tests.pretend_worker import PretendWorker, prepare_model

pytestmark = pytest.mark.browser

TABS = 20
SLOTS = 3  # static/run.js
HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture
def project(live_server: LiveServer) -> Project:
    prepare_model(live_server.settings)
    return live_server.factory.judged(12, slug="tone", eval_percent=30, default_base_model="tiny")


@pytest.fixture
def workers(live_server: LiveServer, project: Project) -> list[PretendWorker]:
    """One for each of twenty runs, all of them training."""
    engine, settings = get_engine(live_server.settings), live_server.settings
    snapshot, engineer = live_server.factory.snapshot(project), live_server.factory.engineer()
    made = []
    for number in range(TABS):
        with write_session(engine) as session:
            own = {"snapshot": session.merge(snapshot), "by": session.merge(engineer)}
            runs.create(session, base_model="tiny", config={}, **own)
        made.append(PretendWorker(engine, settings, name=f"cpu-{number}"))
        made[-1].claim()
        made[-1].start(30)
    return made


@pytest.fixture
def tabs(
    live_server: LiveServer,
    page: Page,
    context: BrowserContext,
    signed_in: Callable[[Role], User],
    workers: list[PretendWorker],
) -> Iterator[list[Page]]:
    """A tab for each run. All of them are seen, as windows beside each other are."""
    signed_in(Role.ENGINEER)
    tabs = []
    for worker in workers:
        tabs.append(context.new_page())
        tabs[-1].goto(f"{live_server.url}/jobs/{worker.job_id}", wait_until="domcontentloaded")
    for tab in tabs:
        expect(tab.locator("[data-run-connection]")).to_have_text("Live")
    yield tabs
    for tab in tabs:
        tab.close()


def shows(tab: Page, points: int) -> None:
    expect(tab.locator("[data-run-charts]")).to_have_attribute("data-points", str(points))


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def streams(live_server: LiveServer) -> float:
    """How many are open, by the server's own count."""
    with urllib.request.urlopen(f"{live_server.url}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("prefloop_event_streams ")))


def that_stream(tabs: list[Page]) -> list[Page]:
    """Those with a connection of their own; the others ask now and then."""
    return [tab for tab in tabs if tab.locator("[data-run-connection]").get_attribute("data-mode") == "stream"]


def test_twenty_windows_side_by_side_are_all_live_and_any_other_page_opens(
    live_server: LiveServer, page: Page, tabs: list[Page], workers: list[PretendWorker]
) -> None:
    for worker in workers:
        worker.steps(1, 5, 30)
    for tab in tabs:
        shows(tab, 6)
    streaming = that_stream(tabs)
    assert len(streaming) == SLOTS
    page.goto(f"{live_server.url}/projects/tone/data")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for tab in streaming:
        tab.close()
        tabs.remove(tab)
    until(lambda: len(that_stream(tabs)) == SLOTS)  # the slots are passed on


def test_tabs_in_the_background_keep_no_connection_and_catch_up_when_they_come_back(
    live_server: LiveServer, tabs: list[Page], workers: list[PretendWorker]
) -> None:
    for tab in tabs:
        tab.evaluate(HIDE, True)
    until(lambda: streams(live_server) == 0)
    for worker in workers:
        worker.steps(1, 5, 30)
    assert all(tab.locator("[data-run-charts]").get_attribute("data-points") == "1" for tab in tabs)
    for tab in tabs:
        tab.evaluate(HIDE, False)
        shows(tab, 6)
        assert that_stream(tabs) == [tab]
        until(lambda: streams(live_server) == 1)
        tab.evaluate(HIDE, True)
