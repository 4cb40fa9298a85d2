"""Rounds as people see them: page, API and command, on the same services."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import write_session
from app.models import JobKind, Project, User
from app.services.jobs import leases
from tests.factory import Factory
from tests.pretend_worker import PretendWorker, prepare_model

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}
FORM = {
    "sources": ["base:tiny"],
    "samples": "2",
    "limit": "5",
    "judgments": "",
    "base_model": "tiny",
    "preset": "few",
    "opponent": "base",
    "goal": "superiority",
    "maximum": "10",
}


@pytest.fixture
def project(factory: Factory, settings: Settings) -> Project:
    prepare_model(settings)
    return factory.judged(4, eval_percent=0)


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.engineer())


def test_a_round_is_started_followed_and_stopped_on_its_page(
    browser: TestClient, project: Project, engine: Engine
) -> None:
    address = f"/projects/{project.slug}/rounds"
    empty = browser.get(address).text
    assert "None yet." in empty and 'value="base:tiny"' in empty
    started = browser.post(address, data=FORM, headers=OWN)
    assert (started.status_code, started.headers["location"]) == (303, f"{address}/1")
    page = browser.get(f"{address}/1").text
    assert "Waits for a worker." in page and 'href="/jobs/' in page and 'aria-current="step"' in page
    twice = browser.post(address, data=FORM, headers=OWN)
    assert twice.headers["location"] == f"{address}/1", "a double click"
    other = browser.post(address, data=FORM | {"limit": "6"}, headers=OWN)
    assert other.status_code == 409 and "Round 1 of this project hasn" in other.text
    assert "new answers" in browser.get(address).text
    assert browser.post(f"{address}/1/stop", headers=OWN).status_code == 303
    stopped = browser.get(f"{address}/1").text
    assert "It was stopped" in stopped and 'hx-trigger="every' not in stopped
    fragment = browser.get(f"{address}/1", headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert fragment.strip().startswith('<div id="round-steps"')


def test_what_is_wrong_is_said_and_what_was_typed_stays(browser: TestClient, project: Project) -> None:
    address = f"/projects/{project.slug}/rounds"
    for wrong, words in (
        ({"samples": "1"}, "One answer a prompt makes no pair."),
        ({"samples": "two"}, "isn’t a whole number"),
        ({"base_model": "gone"}, "gone"),
        ({"sources": ["base:gone"]}, "gone"),
        ({"maximum": "0"}, "Choose 1 to 5,000"),
    ):
        reply = browser.post(address, data=FORM | {"limit": "77"} | wrong, headers=OWN)
        assert reply.status_code in (404, 422), wrong
        assert words in reply.text.replace("&#39;", "’").replace("isn't", "isn’t"), wrong
        assert 'value="77"' in reply.text


def test_a_failed_round_says_why_and_goes_on(browser: TestClient, project: Project, engine: Engine) -> None:
    address = f"/projects/{project.slug}/rounds"
    browser.post(address, data=FORM, headers=OWN)
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        leases.fail(session, job_id=job.id, token=job.lease_token or "", code="killed", error="No memory was left.")
    tried = browser.post(f"{address}/1/retry", headers=OWN)
    assert tried.status_code == 409, "nobody has looked yet, so it runs"
    CliRunner().invoke(cli, ["loop", project.slug, "show", "--wait", "--timeout", "0"])
    page = browser.get(f"{address}/1").text
    assert "No memory was left." in page and "Try again" in page
    assert "stands still" in browser.get(address).text
    assert browser.post(f"{address}/1/retry", headers=OWN).status_code == 303
    assert "Waits for a worker." in browser.get(f"{address}/1").text


def test_the_same_over_the_api(
    client: TestClient, api: Callable[[User], dict[str, str]], factory: Factory, project: Project
) -> None:
    token, address = api(factory.engineer()), f"/api/v1/projects/{project.slug}/rounds"
    wish = {"base_model": "tiny", "opponent": "", "judgments": 2}
    started = client.post(address, json=wish, headers=token)
    assert started.status_code == 201
    told = started.json()
    assert (told["state"], told["step"], told["waits_for"], told["number"]) == ("running", "judgments", 2, 1)
    assert client.post(address, json=wish, headers=token).status_code == 200
    assert client.post(address, json=wish | {"judgments": 3}, headers=token).status_code == 409
    assert client.post(address, json=wish | {"moon": 3}, headers=token).status_code == 422
    assert [one["number"] for one in client.get(address, headers=token).json()["items"]] == [1]
    assert client.get(f"{address}/1", headers=token).json()["plan"]["judgments"] == 2
    assert client.get(f"{address}/2", headers=token).status_code == 404
    assert client.post(f"{address}/1/retry", headers=token).status_code == 409
    assert client.post(f"{address}/1/stop", headers=token).json()["state"] == "stopped"


def test_the_whole_by_one_command(engine: Engine, settings: Settings, project: Project, factory: Factory) -> None:
    factory.admin()
    runner = CliRunner()
    begun = runner.invoke(cli, ["loop", project.slug, "--model", "tiny", "--against", "", "--json"])
    told = json.loads(begun.output)
    assert (told["state"], told["step"]) == ("running", "training"), begun.output
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    ended = runner.invoke(cli, ["loop", project.slug, "show", "--wait"])
    assert ended.exit_code == 0 and "finished, verdict" in ended.output
    factory.comparisons(project, 2)
    waiting = runner.invoke(cli, ["loop", project.slug, "--model", "tiny", "--wait", "--timeout", "0"])
    assert waiting.exit_code == 4 and "waits for 2 pairs to be judged" in waiting.output
    stopped = runner.invoke(cli, ["loop", project.slug, "stop", "--wait"])
    assert stopped.exit_code == 2


def test_arms_are_chosen_on_the_form_over_the_api_and_by_the_command(
    browser: TestClient, client: TestClient, api: Callable[[User], dict[str, str]], factory: Factory, project: Project
) -> None:
    address, token = f"/projects/{project.slug}/rounds", api(factory.engineer())
    for wrong, words in (
        ({"arm_random": "10", "arm_diversity": "90"}, "Give it 20 % or more"),
        ({"arm_random": "50", "arm_margin": "50"}, "nothing has a margin yet"),
        ({"keep": "50", "sources": []}, "nobody was named who gives them"),
    ):
        refused = browser.post(address, data=FORM | wrong, headers=OWN)
        assert refused.status_code == 422 and words in refused.text and '<details class="fold" open>' in refused.text
    browser.post(address, data=FORM | {"arm_random": "40", "arm_diversity": "60"}, headers=OWN)
    plan = {"arms": {"random": 0.4, "diversity": 0.6}, "keep": 0.5}
    (row,) = client.get(f"/api/v1{address}", headers=token).json()["items"]
    assert {name: row["plan"][name] for name in plan} == plan
    browser.post(f"{address}/1/stop", headers=OWN)
    wish = {"base_model": "tiny", "sources": ["base:tiny"], "opponent": ""} | plan
    assert client.post(f"/api/v1{address}", json=wish, headers=token).json()["plan"]["arms"] == plan["arms"]
    browser.post(f"{address}/2/stop", headers=OWN)
    factory.admin()
    asked = ["loop", project.slug, "--model", "tiny", "--source", "base:tiny", "--against", "", "--json"]
    begun = CliRunner().invoke(cli, [*asked, "--arms", "random=0.4,diversity=0.6"])
    assert begun.exit_code == 0, begun.output
    newest = client.get(f"/api/v1{address}", headers=token).json()["items"][0]
    assert (newest["number"], newest["plan"]["arms"]) == (3, plan["arms"])
