"""Runs in the browser's eyes: starting one, its page, its stream, cancel and retry."""

import html
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from starlette.requests import Request
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.models import (
    Checkpoint,
    Import,
    ImportState,
    Job,
    JobKind,
    JobState,
    Project,
    Role,
    Snapshot,
    TrainingRun,
    User,
)
from app.routes.training import run_stream
from app.services.jobs import jobs, workers
from app.services.training import run_settings, runs
from tests.factory import Factory
from tests.pretend_worker import PretendWorker, prepare_model
from tests.services.training.exported import wanted
from tests.services.training.trained import trained

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], engineer: User) -> TestClient:
    return sign_in(engineer)


@pytest.fixture
def project(factory: Factory, settings: Settings) -> Project:
    prepare_model(settings)
    return factory.judged(12, eval_percent=30, default_base_model="tiny")


@pytest.fixture
def worker(engine: Engine, settings: Settings) -> PretendWorker:
    return PretendWorker(engine, settings)


def start(browser: TestClient, project: Project, **fields: str) -> int:
    """Fills in the form as it comes and sends it; the new job's id."""
    page = browser.get(f"/projects/{project.slug}/train").text
    sent = {
        "key": re.search(r'name="key" value="([^"]+)"', page)[1],
        "base_model": "tiny",
        "preset": "standard",
    } | fields
    reply = browser.post(f"/projects/{project.slug}/train", data=sent, headers=OWN)
    assert reply.status_code == 303, reply.text
    return int(reply.headers["location"].removeprefix("/jobs/"))


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_the_form_shows_what_would_be_trained_on_and_every_setting(browser: TestClient, project: Project) -> None:
    page = browser.get(f"/projects/{project.slug}/train").text
    assert "pairs to train on and" in words(page)
    assert "4-bit" in page
    for option in run_settings.OPTIONS:
        assert f'name="config.{option.key}"' in page, option.key
        assert html.escape(option.setting.meaning, quote=False).replace("'", "&#39;") in page, option.key


def test_the_form_says_that_a_file_is_still_being_imported(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    with write_session(engine) as session:
        for name, state in (("<new>.jsonl", ImportState.RUNNING), ("old.jsonl", ImportState.DONE)):
            session.add(
                Import(project_id=project.id, user_id=project.created_by_id, filename=name, state=state, lines=12_000)
            )
    page = words(browser.get(f"/projects/{project.slug}/train").text)
    assert "<new>.jsonl is being imported: 12,000 lines so far." in html.unescape(page)
    assert "old.jsonl" not in page


def test_one_click_freezes_a_snapshot_and_queues_a_job(browser: TestClient, project: Project, engine: Engine) -> None:
    job_id = start(
        browser,
        project,
        **{"config.beta": "0.3", "config.use_soft_labels": "false", "preset": "few", "note": "first try"},
    )
    with read_session(engine) as session:
        run = runs.get(session, job_id)
        assert (run.job.state, run.base_model, run.note, run.snapshot.number) == (
            JobState.QUEUED,
            "tiny",
            "first try",
            1,
        )
        assert (
            run.config["beta"],
            run.config["use_soft_labels"],
            run.config["num_train_epochs"],
            run.config["batch_size"],
        ) == (0.3, False, 3.0, 8)


def test_a_number_that_stands_for_no_limit_is_shown_in_words(browser: TestClient, project: Project) -> None:
    assert 'placeholder="as many as the epochs give"' in browser.get(f"/projects/{project.slug}/train").text
    limited = words(browser.get(f"/jobs/{start(browser, project, **{'config.max_steps': '3'})}").text)
    assert "Most steps 3 default: as many as the epochs give" in limited
    standard = words(browser.get(f"/jobs/{start(browser, project)}").text)
    assert "Most steps as many as the epochs give" in standard


def test_the_same_form_sent_twice_makes_one_job(browser: TestClient, project: Project, engine: Engine) -> None:
    assert start(browser, project, key="a-key-of-this-form") == start(browser, project, key="a-key-of-this-form")
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_a_refused_setting_comes_back_beside_its_field_with_everything_that_was_typed(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    reply = browser.post(
        f"/projects/{project.slug}/train",
        headers=OWN,
        data={
            "key": "k",
            "base_model": "tiny",
            "preset": "few",
            "config.learning_rate": "5",
            "config.seed": "7",
            "note": "keep me",
        },
    )
    assert reply.status_code == 422
    field = reply.text[reply.text.index('id="config.learning_rate"') :][:600]
    assert 'value="5"' in field and 'aria-invalid="true"' in field and "from 0 to 1" in field
    assert 'name="config.seed" type="text" value="7"' in reply.text
    assert 'value="few" checked' in reply.text and 'value="keep me"' in reply.text and 'value="k"' in reply.text
    with read_session(engine) as session:
        assert not session.scalar(select(func.count()).select_from(Job))
        assert not session.scalar(select(func.count()).select_from(Snapshot))


def test_a_model_that_is_not_here_is_refused(browser: TestClient, project: Project) -> None:
    reply = browser.post(f"/projects/{project.slug}/train", data={"base_model": "elsewhere"}, headers=OWN)
    assert reply.status_code == 422
    assert "Choose a base model." in reply.text


def test_without_pairs_the_button_is_off_and_the_page_says_what_to_do(
    browser: TestClient, factory: Factory, settings: Settings
) -> None:
    prepare_model(settings)
    empty = factory.project()
    page = browser.get(f"/projects/{empty.slug}/train").text
    assert re.search(r"<button[^>]*disabled[^>]*>Train on current dataset", page)
    assert f"/projects/{empty.slug}/import" in page
    assert browser.post(f"/projects/{empty.slug}/train", data={"base_model": "tiny"}, headers=OWN).status_code == 409


def test_the_preview_follows_the_rule_and_the_settings(browser: TestClient, project: Project) -> None:
    address = f"/projects/{project.slug}/train/preview"
    plain = browser.get(address, params={"base_model": "tiny", "preset": "trial"}).text
    assert "10 steps" in words(plain)
    strict = browser.get(address, params={"base_model": "tiny", "rule.min_judgments": "2"}).text
    assert "12 with too few judgments" in words(strict)
    wrong = browser.get(address, params={"base_model": "tiny", "config.batch_size": "0"}).text
    assert "not “0”" in words(wrong)


def test_a_run_can_be_repeated_with_its_settings_or_on_its_snapshot(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    first = start(browser, project, **{"config.beta": "0.3", "config.report_to": "tensorboard,wandb"})
    again = browser.get(f"/projects/{project.slug}/train?from={first}").text
    assert 'name="config.beta" type="text" value="0.3"' in again
    assert 'value="tensorboard,wandb"' in again
    assert browser.get(f"/projects/{project.slug}/train?from={'9' * 5000}").status_code == 200
    with read_session(engine) as session:
        snapshot_id = runs.get(session, first).snapshot_id
    page = browser.get(f"/projects/{project.slug}/train?snapshot={snapshot_id}").text
    assert "Train on this snapshot" in page
    reply = browser.post(
        f"/projects/{project.slug}/train", data={"base_model": "tiny", "snapshot_id": str(snapshot_id)}, headers=OWN
    )
    assert reply.status_code == 303
    with read_session(engine) as session:
        assert {run.snapshot_id for run in session.scalars(select(TrainingRun))} == {snapshot_id}


@pytest.mark.parametrize(
    ("name", "text", "words_for_it"),
    [
        ("loss_type", '[["sigmoid", 0.8], ["bco_pair", 0.2]]', "0.8 × DPO + 0.2 × BCO"),
        ("loss_type", '["ipo"]', "1 × IPO, per-token means"),
        ("metric_for_best_model", "eval_kl", "eval_kl"),
        ("lora_target_modules", "q_proj,v_proj", "q_proj,v_proj"),
        ("use_soft_labels", "false", "no"),
    ],
)
def test_a_repeated_run_has_the_same_settings_whatever_they_were(
    browser: TestClient, project: Project, engine: Engine, name: str, text: str, words_for_it: str
) -> None:
    first = start(browser, project, **{f"config.{name}": text})
    again = browser.get(f"/projects/{project.slug}/train?from={first}").text
    field = re.search(rf'name="config\.{name}".*?</div>', again, re.DOTALL)[0]
    value, shown = (
        re.findall(r'value="([^"]+)" selected>([^<]*)<', field) or [2 * re.findall(r' value="(.*?)"', field)]
    )[0]
    assert words_for_it in shown
    second = start(browser, project, **{f"config.{name}": html.unescape(value)})
    with read_session(engine) as session:
        assert runs.get(session, first).config == runs.get(session, second).config


@pytest.mark.parametrize("text", ["[" * 50_000, '[["sigmoid", null]]', "<b>x</b>", "[[1]]", "5", "\x00", "[/red]"])
@pytest.mark.parametrize("name", ["loss_type", "dtype", "use_dora", "report_to", "beta", "no_such_setting"])
def test_garbage_in_a_setting_is_answered_with_the_form(
    browser: TestClient, project: Project, name: str, text: str
) -> None:
    reply = browser.post(
        f"/projects/{project.slug}/train",
        data={"base_model": "tiny", f"config.{name}": text, "note": "kept"},
        headers=OWN,
    )
    assert (reply.status_code, 'value="kept"' in reply.text) == (
        (303, False) if (name, text) == ("beta", "5") else (422, True)
    )
    assert "<b>x" not in reply.text


def test_everything_that_is_wrong_with_the_form_is_said_at_once_with_a_way_to_each_field(
    browser: TestClient, project: Project
) -> None:
    reply = browser.post(
        f"/projects/{project.slug}/train",
        data={"base_model": "elsewhere", "rule.min_judgments": "many", "config.beta": "0", "config.seed": "x"},
        headers=OWN,
    )
    notice = reply.text[reply.text.index('class="problems"') :].partition("</ul>")[0]
    assert re.findall(r'href="#([^"]+)"', notice) == [
        "model-title",
        "rule.min_judgments",
        "config.beta",
        "config.seed",
    ]
    for place in re.findall(r'href="#([^"]+)"', notice):
        assert f'id="{place}"' in reply.text


def test_a_queued_run_without_a_worker_says_how_to_start_one(
    browser: TestClient, project: Project, engine: Engine, settings: Settings
) -> None:
    address = f"/jobs/{start(browser, project)}"
    assert "prefloop worker" in browser.get(address).text
    PretendWorker(engine, settings)
    page = browser.get(address).text
    assert "prefloop worker" not in page
    assert "next in the queue" in words(page)


def test_a_queued_run_says_when_no_living_worker_can_train(
    browser: TestClient, project: Project, engine: Engine, settings: Settings
) -> None:
    address = f"/jobs/{start(browser, project)}"
    PretendWorker(engine, settings, "exports only", kinds=(JobKind.EXPORT,))
    page = words(browser.get(address).text)
    assert "No running worker can train" in page
    assert "no running worker can do runs: start one of this version of Prefloop" in page
    PretendWorker(engine, settings)
    assert "No running worker can train" not in words(browser.get(address).text)


def test_a_running_run_shows_where_it_stands_without_any_script(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    worker.start(40)
    worker.steps(1, 7, 40)
    page = browser.get(address).text
    assert "Training step 7 of 40 about 33 s left on cpu-1" in words(page)
    assert '<noscript><meta http-equiv="refresh"' in page
    assert "Your export failed. Please wait." in page
    assert "Training 88 pairs, evaluating 24." in page
    table = page[page.index("Latest steps") :]
    assert re.search(r'<td class="num">7</td>\s*<td class="num">0\.\d+</td>', table)


def test_a_run_without_its_fused_layers_says_above_everything_that_it_is_slow(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    why = "Prefix-shared rows with fused layers can't be used, so this run is slower than it could be: no kernel."
    worker.say(("log", None, {"message": why, "level": "warning", "fused_layers": False}))
    begins = {"message": "Memory: about 1.0 GiB at the peak.", "peak_bytes": 1 << 30}
    worker.say(("log", None, begins | {"fused_layers": False}))
    worker.start(40)
    page = browser.get(address).text
    assert f"This run is slower than it could be {why}" in words(page)
    assert page.index("This run is slower") < page.index("data-run-charts")
    # Begun again by a version in which they work.
    worker.say(("log", None, begins | {"fused_layers": True}))
    assert "This run is slower" not in words(browser.get(address).text)


def test_a_run_says_what_it_computes_in_and_that_a_choice_is_slow(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    why = "bfloat16, as it was asked for."
    slow = "Products in bfloat16 take 25.0 times as long on this machine as in float32. Set dtype=float32."
    chosen = {"message": f"Numbers: {why}", "asked": "bfloat16", "dtype": "bfloat16", "why": why}
    worker.say(("log", None, chosen), ("log", None, {"message": slow, "level": "warning", "dtype": "bfloat16"}))
    worker.start(40)
    page = words(browser.get(address).text)
    assert f"This run is slower than it could be {slow}" in page
    assert f"Computed in {why}" in page
    # Begun again on a machine with such products.
    worker.say(("log", None, chosen))
    page = words(browser.get(address).text)
    assert "This run is slower" not in page and f"Computed in {why}" in page


def test_the_form_warns_of_a_number_type_that_is_slow_on_the_workers_that_are_there(
    browser: TestClient, project: Project, engine: Engine, worker: PretendWorker
) -> None:
    address = f"/projects/{project.slug}/train/preview?base_model=tiny&config.dtype="
    assert "times as long" not in browser.get(address + "bfloat16").text
    with write_session(engine) as session:
        workers.measured(session, name="cpu-1", product_gflops={"float32": 100.0, "bfloat16": 4.0})
    assert "Products in bfloat16 take 25.0 times as long" in words(browser.get(address + "bfloat16").text)
    for other in ("float32", "auto"):
        assert "times as long" not in browser.get(address + other).text
    PretendWorker(engine, worker.settings, "gpu-1")
    with write_session(engine) as session:
        workers.measured(session, name="gpu-1", product_gflops={"float32": 100.0, "bfloat16": 300.0})
    assert "Worker cpu-1: Products in bfloat16" in words(browser.get(address + "bfloat16").text)


def test_a_finished_run_puts_its_checkpoint_and_verdict_first(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    worker.start(60)
    worker.steps(1, 60, 60)
    worker.evaluate(60)
    checkpoint = worker.publish()
    page = browser.get(address).text
    assert page.index(f'href="/checkpoints/{checkpoint.id}"') < page.index("data-run-charts")
    assert page.index(f'href="/checkpoints/{checkpoint.id}/evaluate"') < page.index("data-run-charts")
    assert "It ranks 19 of 24 eval pairs as people did (95 % interval 64–94 %; chance is 50 %)." in words(page)
    assert "data-run-stream" not in page and "http-equiv" not in page
    assert "81 %" in words(browser.get(f"/projects/{project.slug}/runs").text)


def test_a_failed_run_says_why_what_was_kept_and_what_to_do(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    worker.steps(1, 3, 40)
    worker.fail(
        "out_of_memory", "Memory ran out at step 4.", kept="The training state of step 2.", lines=("last <words>",)
    )
    page = browser.get(address).text
    for part in ("Memory ran out at step 4.", "The training state of step 2.", "last <words>", "Retry with a lower"):
        assert part in words(page), part
    assert "last <words>" not in page
    assert browser.post(f"{address}/retry", headers=OWN).headers["location"] == address
    assert "queued" in words(browser.get(address).text)


def test_a_run_before_its_first_step_says_how_far_it_is(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    number = start(browser, project)
    worker.claim()
    worker.say(("state", None, {"stage": "reference", "done": 3, "missing": 27}))
    assert "Scoring the reference: 3 of 27 pairs." in words(browser.get(f"/jobs/{number}").text)
    row = (
        words(browser.get(f"/projects/{project.slug}/runs").text).partition(f"Run {number}")[2].partition("Snapshot")[0]
    )
    assert "running" in row and "Starting" in row and "of –" not in row


def test_cancel_says_what_is_kept_and_retry_goes_on(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    worker.steps(1, 3, 40)
    assert browser.post(f"{address}/cancel", headers=OWN).status_code == 303
    assert "Cancelling" in browser.get(address).text
    worker.end_cancelled("The training state of step 3 is kept.")
    assert "The training state of step 3 is kept." in words(browser.get(address).text)
    browser.post(f"{address}/retry", headers=OWN)
    assert worker.claim().step == 3


def test_cancelling_what_is_over_explains_instead_of_failing(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    address = f"/jobs/{start(browser, project)}"
    worker.claim()
    worker.steps(1, 3, 3)
    worker.publish()
    assert browser.post(f"{address}/cancel", headers=OWN).status_code == 303
    assert "There is nothing to cancel." in browser.get(address).text


def test_evaluators_see_nothing_of_runs(
    sign_in: Callable[[User], TestClient], browser: TestClient, factory: Factory, project: Project
) -> None:
    job_id = start(browser, project)
    evaluator = sign_in(factory.user(Role.EVALUATOR))
    for address in (
        f"/jobs/{job_id}",
        f"/jobs/{job_id}/stream",
        f"/projects/{project.slug}/runs",
        f"/projects/{project.slug}/train",
        f"/projects/{project.slug}/data",
        f"/projects/{project.slug}/import",
        f"/projects/{project.slug}/checkpoints",
    ):
        assert evaluator.get(address).status_code == 403, address
    assert evaluator.post(f"/jobs/{job_id}/cancel", headers=OWN).status_code == 403


# The stream


def told(stream: str) -> list[dict[str, str]]:
    """A stream's messages: {id, event, data}."""
    messages = []
    for block in stream.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            fields[name] = fields[name] + "\n" + value if name in fields else value
        messages.append(fields)
    return messages


def points_of(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [point for message in messages if message.get("event") == "points" for point in json.loads(message["data"])]


@pytest.fixture
def finished(browser: TestClient, project: Project, worker: PretendWorker) -> int:
    job_id = start(browser, project)
    worker.claim()
    worker.start(20)
    worker.steps(1, 12, 20)
    worker.evaluate(12)
    worker.steps(13, 20, 20)
    worker.publish(step=20)
    return job_id


def test_the_stream_tells_every_point_once_then_ends(browser: TestClient, finished: int) -> None:
    reply = browser.get(f"/jobs/{finished}/stream")
    assert reply.headers["content-type"].startswith("text/event-stream")
    messages = told(reply.text)
    steps = [(point["kind"], point["step"]) for point in points_of(messages)]
    assert sorted(steps) == sorted({("step", step) for step in range(1, 21)} | {("eval", 0), ("eval", 12)})
    assert messages[-1]["event"] == "end"
    blocks = [message for message in messages if "event" not in message][-1]
    assert 'hx-target="#run-status"' in blocks["data"] and "is ready" in blocks["data"] and int(blocks["id"]) > 0


def test_the_page_and_its_stream_together_miss_and_double_nothing(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    job_id = start(browser, project)
    worker.claim()
    worker.start(20)
    worker.steps(1, 9, 20)
    page = browser.get(f"/jobs/{job_id}").text
    shown = json.loads(re.search(r'id="run-points">(.*?)</script>', page, re.DOTALL)[1])
    after = re.search(r"stream\?after=(\d+)", page)[1]
    worker.steps(10, 20, 20)
    worker.publish(step=20)
    later = points_of(told(browser.get(f"/jobs/{job_id}/stream?after={after}").text))
    assert [point["step"] for point in shown if point["kind"] == "step"] == list(range(1, 10))
    assert [point["step"] for point in later if point["kind"] == "step"] == list(range(10, 21))


def test_a_reconnect_goes_on_after_the_last_id(browser: TestClient, finished: int) -> None:
    messages = told(browser.get(f"/jobs/{finished}/stream").text)
    ids = [message["id"] for message in messages if "id" in message]
    again = told(browser.get(f"/jobs/{finished}/stream?after=0", headers={"Last-Event-ID": ids[-1]}).text)
    assert [message.get("event") for message in again] == ["end"]


def test_a_page_that_may_not_wait_gets_what_is_there_and_learns_of_the_end(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    job_id = start(browser, project)
    worker.claim()
    worker.start(20)
    worker.steps(1, 5, 20)
    ask = f"/jobs/{job_id}/stream?wait=false"
    reply = browser.get(ask)
    assert "retry: 2000" in reply.text
    messages = told(reply.text)
    assert [point["step"] for point in points_of(messages) if point["kind"] == "step"] == [1, 2, 3, 4, 5]
    last = {"Last-Event-ID": messages[-1]["id"]}
    assert "event" not in messages[-1] and told(browser.get(ask, headers=last).text) == []
    worker.steps(6, 20, 20)
    worker.publish(step=20)
    rest = told(browser.get(ask, headers=last).text)
    assert [point["step"] for point in points_of(rest)] == list(range(6, 21))
    assert rest[-1]["event"] == "end"


def test_run_of_an_engine_that_printed_no_log_ratios_says_so(
    browser: TestClient, project: Project, worker: PretendWorker
) -> None:
    job_id, told = start(browser, project), "Log-ratios aren't drawn"
    worker.claim()
    worker.say(("step", 1, {"loss": 0.6, "rewards/chosen": 0.25, "rewards/rejected": -1.0}))
    assert told in html.unescape(browser.get(f"/jobs/{job_id}").text)
    worker.steps(2, 3, 20)
    assert told not in html.unescape(browser.get(f"/jobs/{job_id}").text)


def test_a_silent_stream_of_a_queued_run_still_tells_of_workers(
    browser: TestClient, project: Project, engine: Engine, settings: Settings
) -> None:
    job_id = start(browser, project)
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": f"/jobs/{job_id}/stream",
            "headers": [],
            "query_string": b"",
            "app": browser.app,
            "state": {},
        }
    )
    assert b"prefloop worker" in run_stream._ping(request, job_id, engine, settings)
    worker = PretendWorker(engine, settings)
    assert b"prefloop worker" not in run_stream._ping(request, job_id, engine, settings)
    worker.claim()
    assert run_stream._ping(request, job_id, engine, settings) == b": ping\n\n"


def test_the_list_filters_by_state(browser: TestClient, project: Project, finished: int, engine: Engine) -> None:
    queued = start(browser, project, key="another")
    page = browser.get(f"/projects/{project.slug}/runs?state=queued").text
    assert f"/jobs/{queued}" in page and f'href="/jobs/{finished}"' not in page
    assert "No failed run" in browser.get(f"/projects/{project.slug}/runs?state=failed").text
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, queued), by=None)
    assert f"/jobs/{queued}" not in browser.get(f"/projects/{project.slug}/runs?state=queued").text


def test_a_job_of_another_kind_has_a_page_that_follows_it(
    browser: TestClient, finished: int, engine: Engine, settings: Settings, factory: Factory
) -> None:
    with read_session(engine) as session:
        checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.job_id == finished)).one()
    job = wanted(engine, checkpoint, factory.engineer()).job
    address = f"/jobs/{job.id}"
    waits = browser.get(address)
    assert "no running worker can do exports" in words(waits.text) and 'hx-trigger="every 2s"' in waits.text
    worker = PretendWorker(engine, settings, kinds=(JobKind.EXPORT,))
    worker.claim()
    worker.say(("state", None, {"stage": "converting", "total_steps": 4}), ("step", 3, {}))
    block = browser.get(address, headers={"HX-Request": "true"}).text
    assert "<html" not in block
    assert "Converting 75 %" in words(block) and f"Cancel export {job.id}?" in block
    worker.fail("failed", "The tokenizer differs.", lines=("last words",))
    over = browser.get(address)
    assert f"Export {job.id} failed The tokenizer differs." in words(over.text)
    assert "Press Retry to try it again." in words(over.text) and "last words" in over.text
    assert "every 2s" not in over.text
    assert browser.get(f"{address}/stream").status_code == 404


def test_the_list_says_when_nothing_trains(browser: TestClient, project: Project, engine: Engine) -> None:
    address = f"/projects/{project.slug}/runs"
    assert "so nothing trains" in browser.get(address).text
    with write_session(engine) as session:
        workers.register(
            session, name="w", device="", memory_bytes=None, version="1", kinds=[JobKind.TRAINING], versions={}
        )
    assert "so nothing trains" not in browser.get(address).text


def test_a_run_is_started_from_a_checkpoint(
    browser: TestClient, project: Project, engineer: User, engine: Engine, settings: Settings, factory: Factory
) -> None:
    assert 'name="from_checkpoint"' not in browser.get(f"/projects/{project.slug}/train").text, "there is none yet"
    _, checkpoint = trained(engine, settings, project, engineer)
    form = browser.get(f"/projects/{project.slug}/train?checkpoint={checkpoint.id}").text
    assert f'<option value="{checkpoint.id}" selected' in form
    assert "no pair that the checkpoint to start from wasn’t trained on" in words(form)
    fields = {"from_checkpoint": str(checkpoint.id), "new_pairs_only": "true", "base_model": "tiny", "key": "from"}
    nothing = browser.post(f"/projects/{project.slug}/train", data=fields, headers=OWN)
    assert nothing.status_code == 409 and "has nothing new to train on" in words(nothing.text)
    factory.comparisons(project, 5)
    for _ in range(5):
        assert factory.judge(project, engineer)
    other = browser.post(f"/projects/{project.slug}/train", data=fields | {"config.lora_r": "3"}, headers=OWN)
    assert other.status_code == 422 and "has “LoRA rank” 16, and “LoRA rank” 3 was asked for" in words(other.text)
    preview = browser.get(f"/projects/{project.slug}/train/preview", params=fields | {"config.lora_r": "3"})
    assert "has “LoRA rank” 16" in words(preview.text)
    lost = browser.post(
        f"/projects/{project.slug}/train", data={"new_pairs_only": "true", "base_model": "tiny"}, headers=OWN
    )
    assert lost.status_code == 422 and "no checkpoint that they are new to" in words(lost.text)
    job_id = start(browser, project, **fields)
    page = words(browser.get(f"/jobs/{job_id}").text)
    assert f"on tiny, from checkpoint {checkpoint.id}" in page
    again = browser.get(f"/projects/{project.slug}/train?from={job_id}").text
    assert f'<option value="{checkpoint.id}" selected' in again
    offered = browser.get(f"/checkpoints/{checkpoint.id}").text
    assert f'/projects/{project.slug}/train?checkpoint={checkpoint.id}"' in offered
