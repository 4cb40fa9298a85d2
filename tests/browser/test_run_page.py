"""A run watched in a real Chromium: points come live, and no reload, second tab or restarted server loses or doubles one."""

import json
import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import func, select

from app.db import get_engine, read_session
from app.models import Job, Project, Role, User
from tests.live import LiveServer
from tests.pretend_worker import PretendWorker, prepare_model

pytestmark = pytest.mark.browser

SignedIn = Callable[[Role], User]
# What the loss chart holds, read from the drawing library itself: [[steps], [train], [eval]].
DRAWN = "() => document.querySelector(\"[data-chart='loss']\").chart.uplot.data"


@pytest.fixture
def project(live_server: LiveServer) -> Project:
    prepare_model(live_server.settings)
    return live_server.factory.judged(12, slug="tone", eval_percent=30, default_base_model="tiny")


@pytest.fixture
def worker(live_server: LiveServer) -> PretendWorker:
    return PretendWorker(get_engine(live_server.settings), live_server.settings)


@pytest.fixture
def quiet(page: Page) -> list[str]:
    """What the browser complained of: scripts, and what the content security policy refused."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def start(live_server: LiveServer, page: Page, project: Project) -> str:
    page.goto(f"{live_server.url}/projects/{project.slug}/train")
    page.get_by_role("button", name="Train on current dataset").click()
    page.wait_for_url("**/jobs/*")
    return page.url


def shows(page: Page, points: int) -> None:
    expect(page.locator("[data-run-charts]")).to_have_attribute("data-points", str(points))


def drawn_steps(page: Page) -> list[int]:
    steps: list[int] = page.evaluate(DRAWN)[0]
    return steps


def test_a_double_click_on_train_makes_one_run(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project
) -> None:
    signed_in(Role.ENGINEER)
    page.goto(f"{live_server.url}/projects/tone/train")
    page.get_by_role("button", name="Train on current dataset").dblclick()
    page.wait_for_url("**/jobs/*")
    expect(page.locator("#run-status")).to_contain_text("no worker is running")
    with read_session(get_engine(live_server.settings)) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_points_appear_live_and_nothing_jumps(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker, quiet: list[str]
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    expect(page.locator("#run-status")).to_contain_text("next in the queue")
    expect(page.locator("[data-run-connection]")).to_have_text("Live")
    waiting = page.locator("[data-chart='loss'] .chart-waiting")
    expect(waiting).to_have_text("The first point comes after the first step.")
    expect(waiting).to_be_visible()
    worker.claim()
    worker.start(30)
    expect(page.locator("#run-status")).to_contain_text("Training")
    expect(page.locator("#run-samples")).to_contain_text("Your export failed. Please wait.")
    page.evaluate("""() => { window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => { window.shift += entry.value; }))
        .observe({ type: 'layout-shift' }); }""")
    worker.steps(1, 5, 30)
    expect(page.locator("#run-status")).to_contain_text("step 5 of 30")
    shows(page, 6)
    expect(waiting).to_be_hidden()
    worker.steps(6, 12, 30)
    worker.evaluate(12)
    shows(page, 14)
    assert drawn_steps(page) == list(range(13))
    loss = page.evaluate(DRAWN)
    assert loss[1][0] is None and loss[1][1] > loss[1][12] and loss[2][12] is not None
    expect(page.locator("[data-chart='loss'] output").first).not_to_have_text("–")
    expect(page.locator("#run-log")).to_contain_text("Training 88 pairs, evaluating 24.")
    assert page.evaluate("window.shift") < 0.02
    assert quiet == []


def test_a_reload_and_a_second_tab_show_the_same_points(
    live_server: LiveServer,
    page: Page,
    context: BrowserContext,
    signed_in: SignedIn,
    project: Project,
    worker: PretendWorker,
) -> None:
    signed_in(Role.ENGINEER)
    address = start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 10, 30)
    shows(page, 11)
    page.reload()
    shows(page, 11)
    second = context.new_page()
    second.goto(address)
    worker.steps(11, 20, 30)
    for tab in (page, second):
        shows(tab, 21)
        assert drawn_steps(tab) == list(range(21))


def test_a_restarted_server_costs_no_point(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 5, 30)
    shows(page, 6)
    page.evaluate("() => { window.sameDocument = true; }")
    live_server.stop("serve")
    expect(page.locator("[data-run-connection]")).to_have_text("Reconnecting …")
    worker.steps(6, 15, 30)
    live_server.start("serve")
    shows(page, 16)
    expect(page.locator("[data-run-connection]")).to_have_text("Live")
    worker.steps(16, 20, 30)
    shows(page, 21)
    assert drawn_steps(page) == list(range(21))
    assert page.evaluate("() => window.sameDocument"), "the page was not reloaded"


def test_a_tab_in_the_background_catches_up(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    """As when a laptop's lid closes: the page is hidden, its connection ends, and it comes back later."""
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 5, 30)
    shows(page, 6)
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    worker.steps(6, 15, 30)
    page.evaluate(hide, False)
    shows(page, 16)
    assert drawn_steps(page) == list(range(16))


def test_a_page_that_opens_while_the_server_stumbles_connects_later(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    signed_in(Role.ENGINEER)
    address = start(live_server, page, project)
    worker.claim()
    worker.start(30)
    page.route("**/stream*", lambda route: route.abort())
    page.goto(address)
    expect(page.locator("[data-run-connection]")).to_have_text("Reconnecting …")
    expect(page.locator("#flashes")).to_be_empty()
    page.unroute("**/stream*")
    worker.steps(1, 5, 30)
    shows(page, 6)


def test_the_end_shows_the_checkpoint_without_a_reload(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker, quiet: list[str]
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(60)
    worker.steps(1, 60, 60)
    worker.evaluate(60)
    worker.sample("after", 60, "Let me look at **that** with you.")
    worker.publish()
    expect(page.locator("#run-outcome")).to_contain_text("is ready")
    expect(page.locator("#run-outcome")).to_contain_text("It ranks 19 of 24 eval pairs as people did")
    expect(page.locator("#run-samples strong")).to_have_text("that")
    expect(page.get_by_role("button", name="Cancel run")).to_have_count(0)
    expect(page.locator("[data-run-connection]")).to_be_hidden()
    assert quiet == []


def test_cancel_and_retry_from_the_page(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 5, 30)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_role("button", name="Cancelling …")).to_be_disabled()
    worker.end_cancelled("The training state of step 5 is kept.")
    expect(page.locator("#run-outcome")).to_contain_text("The training state of step 5 is kept.")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#run-status")).to_contain_text("Waiting for a worker")
    worker.claim()
    worker.steps(6, 9, 30)
    shows(page, 10)


def test_a_resumed_run_replaces_the_steps_that_it_takes_again(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 8, 30)
    shows(page, 9)
    worker.say(("step", 7, {"loss": 0.25}), ("step", 8, {"loss": 0.125}), ("step", 9, {"loss": 0.0625}))
    shows(page, 10)
    steps, loss, _ = page.evaluate(DRAWN)
    assert steps == list(range(10)) and loss[7:] == [0.25, 0.125, 0.0625]


def test_without_scripts_everything_can_be_done(
    live_server: LiveServer, browser: Browser, project: Project, worker: PretendWorker
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(live_server.link(live_server.factory.engineer()))
    if "/link/" in page.url:
        page.locator("main button").first.click()
    start(live_server, page, project)
    worker.claim()
    worker.start(30)
    worker.steps(1, 5, 30)
    page.reload()
    expect(page.locator("#run-status")).to_contain_text("step 5 of 30")
    page.locator("#numbers > summary").click()
    expect(page.get_by_role("region", name="Latest steps, newest first").locator("tbody tr").first).to_contain_text("5")
    page.goto(f"{live_server.url}/projects/tone/import")
    page.locator("input[type=file]").set_input_files(
        {
            "name": "a.jsonl",
            "mimeType": "application/x-ndjson",
            "buffer": b'{"prompt": "New?", "responses": ["a", "b"]}\nnot json\n',
        }
    )
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/imports/*")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("region", name="Rejected lines with their reasons")).to_contain_text("bad json")
    context.close()


def test_an_upload_shows_its_progress_and_ends_on_its_own_page(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, quiet: list[str]
) -> None:
    signed_in(Role.ENGINEER)
    page.goto(f"{live_server.url}/projects/tone/import")
    page.evaluate("""() => { window.notes = []; const note = document.querySelector('[data-upload-note]');
        new MutationObserver(() => sessionStorage.setItem('note', (sessionStorage.getItem('note') ?? '') + note.textContent)).observe(note, { childList: true }); }""")
    lines = "\n".join(
        json.dumps({"prompt": f"Question {number}?", "responses": ["Yes.", "No."]}) for number in range(50)
    )
    page.locator("input[type=file]").set_input_files(
        {"name": "many.jsonl", "mimeType": "application/x-ndjson", "buffer": lines.encode()}
    )
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/imports/*")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("main")).to_contain_text("50 lines read")
    assert "Sent; looking at its rows" in page.evaluate("sessionStorage.getItem('note')")
    assert quiet == []


def test_changing_the_form_updates_data_and_cost_in_place(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, quiet: list[str]
) -> None:
    signed_in(Role.ENGINEER)
    page.goto(f"{live_server.url}/projects/tone/train")
    page.get_by_label("Trial").check()
    expect(page.locator("#train-cost")).to_contain_text("10 steps")
    page.get_by_text("Advanced").click()
    page.get_by_label("γ", exact=True).fill("1")
    page.get_by_label("γ", exact=True).blur()
    expect(page.locator("#train-cost")).to_contain_text("sigmoid doesn't use 'gamma'")
    page.get_by_label("γ", exact=True).fill("")
    page.get_by_text("How judgments become pairs").click()
    page.get_by_label("Judgments needed").fill("2")
    page.get_by_label("Judgments needed").blur()
    expect(page.locator("#train-data")).to_contain_text("12 with too few judgments")
    assert quiet == []


def test_a_wrong_number_in_a_closed_part_of_the_form_is_shown_beside_its_field_with_nothing_lost(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project
) -> None:
    signed_in(Role.ENGINEER)
    page.goto(f"{live_server.url}/projects/tone/train")
    page.get_by_text("Advanced").click()
    size, seed = page.get_by_role("textbox", name="Batch size"), page.get_by_role("textbox", name="Seed")
    size.fill("eight")
    seed.fill("7")
    page.get_by_text("Advanced").click()
    page.get_by_role("button", name="Train on current dataset").click()
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("'batch_size' must be a whole number from 1 to 65,536, not “eight”.")
    notice.get_by_role("link", name="Go to the field").click()
    expect(size).to_be_focused()
    expect(size).to_be_in_viewport()
    expect(size).to_have_value("eight")
    expect(size).to_have_accessible_description(re.compile("not “eight”"))
    expect(seed).to_have_value("7")


def serious(page: Page) -> list[str]:
    violations = Axe().run(page).response["violations"]
    return [
        f"{item['id']}: {[node['target'] for node in item['nodes']]}"
        for item in violations
        if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing_serious(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker, scheme: str
) -> None:
    signed_in(Role.ADMIN)
    live_server.factory.project(slug="bare")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    done = start(live_server, page, project)
    worker.claim()
    worker.start(60)
    worker.steps(1, 60, 60)
    worker.evaluate(60)
    worker.publish()
    failed = start(live_server, page, project)
    worker.claim()
    worker.steps(1, 3, 30)
    worker.fail("out_of_memory", "Memory ran out.", kept="The state of step 2.", lines=("one", "two"))
    queued = start(live_server, page, project)
    own = ["data", "import", "train", "runs", "checkpoints"]
    paths = [
        *(f"/projects/{slug}/{name}" for slug in ("tone", "bare") for name in own),
        "/snapshots/1",
        "/checkpoints/1",
        "/comparisons/1",
        "/workers",
    ]
    for address in (done, failed, queued, *(live_server.url + path for path in paths)):
        page.goto(address)
        page.evaluate("document.querySelectorAll('main details').forEach((fold) => { fold.open = true; })")
        assert serious(page) == [], address
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


def test_nothing_sticks_out_on_a_phone(
    live_server: LiveServer, page: Page, signed_in: SignedIn, project: Project, worker: PretendWorker
) -> None:
    signed_in(Role.ENGINEER)
    start(live_server, page, project)
    worker.claim()
    worker.start(60)
    worker.steps(1, 60, 60)
    worker.evaluate(60)
    worker.publish()
    page.set_viewport_size({"width": 380, "height": 800})
    own = (f"/projects/tone/{name}" for name in ("data", "train", "import", "runs", "checkpoints"))
    for path in (*own, "/jobs/1", "/snapshots/1", "/checkpoints/1", "/comparisons/1"):
        page.goto(live_server.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380, path
