"""Pages, calls and commands of blind batches; and that nothing an evaluator gets tells an evaluation's pair from another."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import read_session
from app.models import Evaluation, EvaluationState, Project, User
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.routes.test_statements import statements
from tests.services.loop.batch import Batch, prefers_new

HEADERS = {"Sec-Fetch-Site": "same-origin"}
# What differs between any two pairs: their texts, tokens, ids, and times.
TEXT = re.compile(
    r"The new way to do \d+\.|An older way to do \d+\.|Well, \d+\.|So, \d+!|(?:How do I do|Tell me about) \d+[?.]"
)
CHANGES = re.compile(
    r'name="token" value="[^"]+"|[?]edit=\d+|data-until="[^"]+"|datetime="[^"]+" title="[^"]+"|<b>\d+</b>|\d+ waiting|'
    r'value="\d+" max="60"|\d+ / 60| · took [\d.]+ m?s| · (?=</span>)|<time.*?</time>| disabled'
)


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def plain(page: str) -> str:
    """A page without what differs between any two pairs, and with the two answers of each in one order."""
    return re.sub(r"\s+", " ", CHANGES.sub("", TEXT.sub("TEXT", page)))


def form_of(page: str) -> dict[str, str]:
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token, "a pair is shown"
    return {"token": token[1], "choice": "left", "seen_guidelines": "1"}


def test_a_page_starts_one_and_says_before_what_it_can_decide(
    batch: Batch, sign_in: Callable[[User], TestClient]
) -> None:
    browser = sign_in(batch.engineer)
    where = f"/checkpoints/{batch.checkpoint.id}"
    assert f'href="{where}/evaluate"' in browser.get(where).text
    assert "no prompts of the eval split" in browser.get(f"{where}/evaluate").text
    batch.prompts(60)
    page = browser.get(f"{where}/evaluate?maximum=60").text
    assert "With 60 prompts a true win rate of 73 % or more is decided in 80 % of cases" in page
    told = browser.get(f"{where}/evaluate?maximum=12", headers={**HEADERS, "HX-Request": "true"}).text
    assert "With 12 prompts" in told and "<html" not in told
    form = {"opponent": "base", "maximum": "x", "goal": "superiority"}
    wrong = browser.post(f"{where}/evaluations", data=form, headers=HEADERS)
    assert wrong.status_code == 422 and "isn&#39;t a number" in wrong.text
    reply = browser.post(f"{where}/evaluations", data=form | {"maximum": "20"}, headers=HEADERS)
    assert reply.status_code == 303 and reply.headers["location"].endswith("/evaluations/1/batch")
    again = browser.post(f"{where}/evaluations", data=form | {"maximum": "20"}, headers=HEADERS)
    assert again.status_code == 409 and "compares the same two already" in again.text
    assert "are being made" in browser.get(reply.headers["location"]).text
    assert "Evaluation 1" in browser.get(f"/projects/{batch.project.slug}/evaluations").text


def test_the_page_of_a_batch_shows_how_far_it_is_and_stops_it(
    batch: Batch, sign_in: Callable[[User], TestClient]
) -> None:
    evaluation = batch.asking(4, failed=[2])
    batch.judge(batch.evaluators[0], prefers_new)
    batch.settle(evaluation)
    browser = sign_in(batch.engineer)
    where = f"/projects/{batch.project.slug}/evaluations/{evaluation.number}"
    page = browser.get(f"{where}/batch").text
    assert (
        "People are asked now" in page
        and "1 without an answer of both sides" in page
        and "come alone" in page
        and "blinding is weaker" in page
    )
    assert batch.evaluators[1].display_name in page
    assert browser.post(f"{where}/stop", headers=HEADERS).status_code == 303
    assert "It is stopped" in browser.get(f"{where}/batch").text
    assert batch.now(evaluation).state is EvaluationState.STOPPED


def test_prompts_are_kept_by_a_file(batch: Batch, sign_in: Callable[[User], TestClient]) -> None:
    browser = sign_in(batch.engineer)
    where = f"/projects/{batch.project.slug}"
    file = {"file": ("kept.jsonl", io.BytesIO(b'"What is a valve?"\n{"prompt": "Where is north?"}\n'))}
    assert browser.post(f"{where}/kept-prompts", files=file, headers=HEADERS).status_code == 303
    page = browser.get(f"{where}/evaluations").text
    assert "2 prompts are kept for evaluation, 2 of them new." in page and "the project has some" in page
    assert "those kept for evaluation" in browser.get(f"/checkpoints/{batch.checkpoint.id}/evaluate").text


def test_who_may_see_sources_sees_none_of_a_pair_that_is_asked_blind(
    batch: Batch,
    client: TestClient,
    api: Callable[[User], dict[str, str]],
    sign_in: Callable[[User], TestClient],
) -> None:
    token = api(batch.engineer)
    body: dict[str, Any] = {"opponent": "base"}
    batch.prompts(3)
    reply = client.post(f"/api/v1/checkpoints/{batch.checkpoint.id}/evaluations", json=body, headers=token)
    with read_session(batch.engine) as session:
        row = session.get_one(Evaluation, reply.json()["id"])
    browser, slug = sign_in(batch.engineer), batch.project.slug
    pages = (f"/generations/{row.job_id}", f"/generations/{row.job_id}?page=2&mark=at_limit")
    answers = f"/api/v1/generations/{row.job_id}/answers"
    assert client.get(answers, headers=token).status_code == 409, "they are being made"
    batch.answered(row)
    pair_id = batch.pairs(row)[0].comparison_id
    pair, side = f"/comparisons/{pair_id}", f"checkpoint {batch.checkpoint.id}"
    for page in pages:
        shown = browser.get(page).text
        assert "Hidden while a blind batch asks" in shown and "way to do" not in shown and "at_limit" not in shown
    refused = client.get(answers, headers=token)
    assert (
        refused.status_code == 409 and "when evaluation 1 has ended" in refused.text and "way to do" not in refused.text
    )
    shown = browser.get(pair).text
    assert (
        "The new way to do" in shown and side not in shown and "Sources are hidden while its blind batch asks" in shown
    )
    taken = client.get(f"/api/v1/projects/{slug}/extract?form=own", headers=token).text
    assert "The new way to do" in taken and side not in taken and "evaluation 1 asks blind" in taken
    everything = client.get(f"/api/v1/projects/{slug}/comparisons?size=200", headers=token).json()["items"]
    assert [one["hidden_by"] for one in everything] == [None] * len(everything), "ordinary pairs have their sources"
    client.post(f"/api/v1/evaluations/{row.id}/stop", headers=token)
    shown = browser.get(pair).text
    assert side in shown and "Sources are hidden" not in shown
    assert "The new way to do" in browser.get(pages[0]).text
    assert [one["source"] for one in client.get(answers, headers=token).json()["items"]][:2] == [0, 1]
    assert side in client.get(f"/api/v1/projects/{slug}/extract?form=own", headers=token).text


def test_the_same_over_the_api(batch: Batch, client: TestClient, api: Callable[[User], dict[str, str]]) -> None:
    token, where = api(batch.engineer), f"/api/v1/projects/{batch.project.slug}"
    kept = client.post(f"{where}/kept-prompts", json={"prompts": ["One?", "What of two?"]}, headers=token)
    assert kept.json() == {"kept": 2, "new": 2, "others": 0}
    body: dict[str, Any] = {"prompts": "kept", "opponent": "base", "goal": "non_inferiority", "temperature": 0}
    reply = client.post(f"/api/v1/checkpoints/{batch.checkpoint.id}/evaluations", json=body, headers=token)
    assert reply.status_code == 201 and reply.json()["state"] == "preparing", reply.text
    with read_session(batch.engine) as session:
        row = session.get_one(Evaluation, reply.json()["id"])
    batch.answered(row)
    shown = client.get(f"/api/v1/evaluations/{row.id}", headers=token).json()
    assert shown["state"] == "asking" and shown["standing"]["waiting"] == 2 and shown["plan_sha256"] == row.plan_sha256
    assert [one["id"] for one in client.get(f"{where}/evaluations", headers=token).json()["items"]] == [row.id]
    assert client.post(f"/api/v1/evaluations/{row.id}/stop", headers=token).json()["state"] == "stopped"
    changed = client.patch(where, json={"evaluates_runs": True}, headers=token)
    assert changed.json()["evaluates_runs"] is True


def test_the_same_by_commands(batch: Batch, tmp_path: Any) -> None:
    def prefloop(*words: str) -> str:
        result = CliRunner().invoke(cli, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    kept = tmp_path / "kept.txt"
    kept.write_text("Where is the valve?\nHow do I open it?\n")
    factory_admin = batch.factory.admin()
    assert factory_admin.id
    slug = batch.project.slug
    assert "2 prompts are kept" in prefloop("evaluations", "keep", slug, str(kept))
    assert "no win rate is decided" in prefloop("evaluate", str(batch.checkpoint.id), "--prompts", "kept", "--dry-run")
    assert "is prepared by job" in prefloop("evaluate", str(batch.checkpoint.id), "--prompts", "kept")
    assert '"state":"preparing"' in prefloop("evaluations", "list", slug, "--json")
    assert "state: preparing" in prefloop("evaluations", "show", "1")
    assert "was stopped" in prefloop("evaluations", "stop", "1")
    prefloop("evaluations", "automatic", slug)
    with read_session(batch.engine) as session:
        assert session.get_one(Project, batch.project.id).evaluates_runs


def test_pages_tell_no_pair_of_an_evaluation_from_another(
    batch: Batch, sign_in: Callable[[User], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.ordinary(8)
    batch.asking(8, Wanted(share=50))
    turn = iter([0, 99] * 20)
    monkeypatch.setattr("secrets.randbelow", lambda _: next(turn))
    browser = sign_in(batch.evaluators[0])
    where = f"/projects/{batch.project.slug}/compare"
    kinds: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    for _ in range(6):
        page = browser.get(where)
        is_blind = "The new way" in page.text
        asked_again, undone = browser.get(where), None
        reply = browser.post(where, data=form_of(page.text), headers=HEADERS)
        undone = browser.post(f"{where}/undo", headers=HEADERS)
        history = browser.get(f"/projects/{batch.project.slug}/history")
        (first_entry,) = re.findall(r"<li class=\"card\">.*?</li>", history.text, re.DOTALL)[:1]
        kinds[is_blind].append(
            (plain(page.text), plain(asked_again.text), str(reply.headers["location"]), plain(first_entry))
        )
        assert (undone.status_code, sorted(page.headers)) == (303, sorted(asked_again.headers))
        assert "evaluation" not in re.sub(r"<nav.*?</nav>", "", page.text, flags=re.DOTALL).lower()
    assert len(kinds[True]) == len(kinds[False]) == 3
    assert set(kinds[True]) == set(kinds[False]) and len(set(kinds[True])) == 1


def test_the_api_tells_no_pair_of_an_evaluation_from_another(
    batch: Batch, client: TestClient, api: Callable[[User], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.ordinary(8)
    batch.asking(8, Wanted(share=50))
    turn = iter([0, 99] * 20)
    monkeypatch.setattr("secrets.randbelow", lambda _: next(turn))
    token, where = api(batch.evaluators[0]), f"/api/v1/projects/{batch.project.slug}"

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: len(one) if key == "token" else shape(one) for key, one in value.items()}
        return [shape(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__

    kinds: dict[bool, list[Any]] = {True: [], False: []}
    ids = []
    before = client.get(f"{where}/progress", headers=token).json()
    for _ in range(6):
        pair = client.post(f"{where}/next", headers=token)
        is_blind = "The new way" in pair.text
        body = {"token": pair.json()["token"], "choice": "tie"}
        judged = client.post("/api/v1/judgments", json=body, headers=token)
        progress = client.get(f"{where}/progress", headers=token).json()
        moved = {key: progress[key] - before[key] for key in progress}
        before = progress
        ids.append(judged.json()["id"])
        history = client.get(f"{where}/judgments", headers=token).json()["items"][0]
        kinds[is_blind].append((shape(pair.json()), shape(judged.json()), moved, shape(history), sorted(pair.headers)))
    assert len(kinds[True]) == len(kinds[False]) == 3
    assert all(one == kinds[True][0] for one in kinds[True] + kinds[False])
    assert ids == list(range(ids[0], ids[0] + 6))
    assert kinds[True][0][2] == {"today": 1, "goal": 0, "mine": 1, "done": 1, "wanted": 0, "waiting_for_me": -1}


def test_a_judgment_costs_two_statements_more_while_an_evaluation_asks(
    batch: Batch, sign_in: Callable[[User], TestClient]
) -> None:
    browser = sign_in(batch.evaluators[0])
    where = f"/projects/{batch.project.slug}/compare"

    def judge() -> list[str]:
        form = form_of(browser.get(where).text)
        with statements() as said:
            reply = browser.post(where, data=form, headers={**HEADERS, "HX-Request": "true"})
        assert reply.status_code == 200
        return [statement for statement, _ in said]

    batch.ordinary(30)
    without = judge()
    batch.asking(3, Wanted(share=1))
    beside_few = judge()
    assert without and len(beside_few) == len(without) + 2  # which evaluations ask, and what waits of theirs
