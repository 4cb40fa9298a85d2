"""A whole round in a real browser with real processes: answers, judgments, training, the blind batch, the verdict, an alias.

The worker is killed in each kind of job, and everything that an evaluator gets is searched for what tells.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import Engine, select

from app.db import get_engine, read_session
from app.models import (
    Evaluation,
    EvaluationPair,
    EvaluationState,
    GeneratedAnswer,
    Job,
    JobKind,
    Judgment,
    Role,
    Round,
    RoundState,
    RoundStep,
)
from app.services.loop.generating import prompts
from tests.browser.keys import close_guidelines, press_for_next
from tests.live import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]
MODEL = "smollm2-135m-instruct"
PATIENCE_SECONDS = 600
# What an evaluator must never read, whatever page or answer they get. The project's own name holds none of these.
TELLS = re.compile(r"evaluation|verdict|checkpoint|opponent|smollm|generation|blind|adapter|generated", re.IGNORECASE)
QUESTIONS = [
    f"Write one short sentence about {what}."
    for what in (
        "rain", "bread", "trains", "apples", "rivers", "winter", "tea", "bicycles",
        "moss", "clocks", "paper", "bees", "salt", "bridges", "wool", "lamps",
    )
]  # fmt: skip


@pytest.fixture
def engine(live_server: LiveServer) -> Engine:
    return get_engine(live_server.settings)


@pytest.fixture
def evaluator(live_server: LiveServer, browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """Another person's browser on the desk, and what it got: every header, page and answer."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(live_server.link(live_server.factory.user(Role.EVALUATOR)))
    got: list[str] = []

    def record(route: Route) -> None:
        reply = route.fetch(max_redirects=0)
        got.extend(f"{name}: {value}" for name, value in reply.headers.items())
        if any(kind in reply.headers.get("content-type", "") for kind in ("html", "json")):
            got.append(reply.text())
        route.fulfill(response=reply)

    page.route("**/*", record)
    yield page, got
    context.close()


def until(what: str, happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"It did not happen that {what}."
        time.sleep(0.2)


def now(engine: Engine) -> Round:
    with read_session(engine) as session:
        return session.scalars(select(Round)).one()


def answers(engine: Engine, job_id: int | None) -> dict[int, str]:
    with read_session(engine) as session:
        rows = session.execute(select(GeneratedAnswer.id, GeneratedAnswer.text).where(GeneratedAnswer.job_id == job_id))
        return dict(rows.tuples().all())


def kill_worker(server: LiveServer) -> None:
    """As the machine's loss would: at once, with all that it started; another one comes."""
    server.stop("worker", signal.SIGKILL)
    server.start("worker")


def step_of(engine: Engine, job_id: int | None) -> int:
    with read_session(engine) as session:
        return session.get_one(Job, job_id).step


def judge_all(page: Page, address: str) -> list[str]:
    """Judges until nothing waits, the longer answer being the better one. Returns what the pages held."""
    page.goto(address)
    close_guidelines(page)
    seen = []
    while page.locator("input[name=token]").count():
        seen.append(page.content())
        first, second = (page.locator(".answer").nth(place).inner_text() for place in (0, 1))
        press_for_next(page, "1" if len(first) >= len(second) else "2")
    return [*seen, page.content()]


def test_a_whole_round_from_new_answers_to_an_alias(
    live_server: LiveServer,
    page: Page,
    signed_in: Callable[[Role], object],
    evaluator: tuple[Page, list[str]],
    engine: Engine,
    smollm2: Path,
    tmp_path: Path,
) -> None:
    live_server.settings.models.mkdir(parents=True, exist_ok=True)
    (live_server.settings.models / MODEL).symlink_to(smollm2)
    project = live_server.factory.project(slug="short", eval_percent=50, default_base_model=MODEL)
    prompts.store(engine, project_id=project.id, given=prompts.read_given(QUESTIONS))
    live_server.environment["PREFLOOP_WORKER_LEASE_SECONDS"] = "8"  # a worker that is gone is missed soon
    live_server.start("worker")
    signed_in(Role.ENGINEER)
    judge, got = evaluator
    desk = f"{live_server.url}/projects/short/compare"

    page.goto(f"{live_server.url}/projects/short/rounds")
    page.locator("[name=limit]").fill("6")
    page.locator("[name=max_new_tokens]").fill("20")
    page.locator("[name=learning_rate]").fill("3e-4")
    page.locator("[name=preset]").select_option("few")
    page.locator("[name=opponent]").select_option("base")
    page.locator("[name=maximum]").fill("5")
    page.get_by_role("button", name="Start the round").dblclick()
    page.wait_for_url("**/rounds/1")

    until("some answers arrived", lambda: len(answers(engine, now(engine).generation_job_id)) >= 2)
    before = answers(engine, now(engine).generation_job_id)
    kill_worker(live_server)
    until("people may judge", lambda: now(engine).step is not RoundStep.ANSWERS)
    after = answers(engine, now(engine).generation_job_id)
    assert before.items() <= after.items() and len(after) == 12, "none was asked for twice"
    expect(page.locator("[aria-current=step]")).to_contain_text("Judgments")

    pages = judge_all(judge, desk)
    until("it trains", lambda: now(engine).step is RoundStep.TRAINING and now(engine).training_job_id)
    until("a step was taken", lambda: step_of(engine, now(engine).training_job_id) >= 1)
    kill_worker(live_server)
    until("both sides answer", lambda: now(engine).evaluation_id)

    # Ordinary pairs beside those of the batch.
    live_server.factory.comparisons(project, 4)
    with read_session(engine) as session:
        batch = session.get_one(Evaluation, now(engine).evaluation_id)
    until("the batch has some answers", lambda: len(answers(engine, batch.job_id)) >= 2)
    before = answers(engine, batch.job_id)
    kill_worker(live_server)

    def state() -> EvaluationState:
        with read_session(engine) as session:
            return session.get_one(Evaluation, batch.id).state

    until("the batch is asked", lambda: state() is not EvaluationState.PREPARING)
    assert before.items() <= answers(engine, batch.job_id).items()
    assert state() is EvaluationState.ASKING
    pages += judge_all(judge, desk)
    judge.goto(f"{live_server.url}/projects/short/history")
    pages.append(judge.content())
    with read_session(engine) as session:
        pairs = session.scalars(select(EvaluationPair).where(EvaluationPair.evaluation_id == batch.id)).all()
        judged = set(session.scalars(select(Judgment.comparison_id)))
    asked = {pair.comparison_id for pair in pairs if pair.comparison_id}
    assert asked and asked <= judged, "the batch was judged among the others"

    spoken = [hit[0] for text in got + pages for hit in TELLS.finditer(text)]
    assert spoken == [], "an evaluator's pages tell"

    until("the round is finished", lambda: now(engine).state is RoundState.FINISHED)
    with read_session(engine) as session:
        kinds = session.execute(select(Job.kind, Job.attempts).order_by(Job.id)).tuples().all()
    assert [kind for kind, _ in kinds] == [JobKind.GENERATION, JobKind.TRAINING, JobKind.GENERATION]
    page.goto(f"{live_server.url}/projects/short/rounds/1")
    page.get_by_role("link", name="Evaluation 1").last.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("evaluation 1")
    expect(page.locator("main")).to_contain_text("judged blind by 1 person")
    page.goto(f"{live_server.url}/checkpoints/{now(engine).checkpoint_id}")
    expect(page.locator("main")).to_contain_text("judged blind by 1 person")
    page.get_by_label("Alias").fill("production")
    page.get_by_role("button", name="Move it here").click()
    page.goto(f"{live_server.url}/projects/short/aliases")
    expect(page.locator("main")).to_contain_text(f"checkpoint {now(engine).checkpoint_id}")
    page.goto(f"{live_server.url}/checkpoints/{now(engine).checkpoint_id}")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download all").click()
    waiting.value.save_as(tmp_path / "checkpoint.tar")
    assert (tmp_path / "checkpoint.tar").stat().st_size > 100_000
