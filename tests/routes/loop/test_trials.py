"""Trials of arms as people see them: page, API and command, on the same services."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.models import User
from tests.factory import Factory
from tests.services.loop.trials.tried import Tried, helped

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}
WHERE = "/projects/tone/trials"


@pytest.fixture
def tried(engine: Engine, settings: Settings, factory: Factory) -> Tried:
    return Tried(engine, settings, factory)


def test_a_trial_is_seen_from_its_cost_to_what_the_arm_bought(
    tried: Tried, sign_in: Callable[[User], TestClient]
) -> None:
    browser = sign_in(tried.engineer)
    page = browser.get(WHERE).text
    assert "6 training runs on 12 pairs each" in page and "12 small margin" in page
    form = {"run": str(tried.run.job_id), "arm": ["margin"], "seeds": "4"}
    assert "8 training runs" in browser.post(f"{WHERE}/cost", data=form, headers=OWN).text
    assert "No arm was named" in browser.post(f"{WHERE}/cost", data=form | {"arm": []}, headers=OWN).text
    for change, words in (
        ({"arm": ["diversity"]}, "trained on 0 pairs of the arm “diversity”"),
        ({"seeds": "many"}, "a number of seeds"),
        ({"run": "99"}, "There is no run 99"),
    ):
        refused = browser.post(WHERE, data=form | change, headers=OWN)
        assert refused.status_code in (404, 422) and words in refused.text
    for _ in range(2):
        assert browser.post(WHERE, data=form, headers=OWN).headers["location"] == f"{WHERE}/1"
    assert "Trial 1 is under way." in browser.get(WHERE).text
    row = tried.advance(tried.begin_found(1))
    shown = browser.get(f"{WHERE}/1").text
    assert "0 of 8 runs" in shown and "12 pairs of random" in shown and 'hx-trigger="every 5s"' in shown
    tried.train(row, helped)
    tried.advance(row)
    told = browser.get(f"{WHERE}/1").text
    assert "12 judgments of the arm “small margin” bought +" in told and "more than random" in told
    assert 'hx-trigger="every 5s"' not in told
    assert "part, for a trial of arms" in browser.get("/projects/tone/data").text
    assert browser.post(f"{WHERE}/1/stop", headers=OWN).status_code == 409
    assert browser.get(f"{WHERE}/2").status_code == 404


def test_where_no_arm_asked_anything_the_page_says_what_to_do(
    factory: Factory, sign_in: Callable[[User], TestClient]
) -> None:
    factory.judged(2, slug="bare")
    page = sign_in(factory.engineer()).get("/projects/bare/trials").text
    assert "Nothing to compare yet" in page and "Ask for new answers" in page


def test_the_same_over_the_api(tried: Tried, client: TestClient, api: Callable[[User], dict[str, str]]) -> None:
    token, where = api(tried.engineer), "/api/v1/projects/tone/trials"
    asked = {"run": tried.run.job_id, "arms": ["margin"]}
    cost = client.post(f"{where}/estimate", json=asked, headers=token).json()
    assert (cost["runs"], cost["pairs"]) == (6, 12)
    for change, status in (({"arms": ["random"]}, 422), ({"arms": []}, 422), ({"seeds": 2}, 422), ({"run": 99}, 404)):
        for path in (where, f"{where}/estimate"):
            assert client.post(path, json=asked | change, headers=token).status_code == status
    made = [client.post(where, json=asked, headers=token) for _ in range(2)]
    assert [reply.status_code for reply in made] == [201, 200]
    assert client.post(where, json=asked | {"seeds": 5}, headers=token).status_code == 409
    row = tried.advance(tried.begin_found(1))
    told = client.get(f"{where}/1", headers=token).json()
    assert (told["state"], len(told["runs"]), told["runs"][0]["left_out"]) == ("training", 6, "random")
    assert client.post(f"{where}/1/retry", headers=token).status_code == 409
    tried.train(row, helped)
    tried.advance(row)
    done = client.get(where, headers=token).json()["items"][0]
    assert done["state"] == "finished" and done["result"]["arms"]["margin"]["differs"]
    assert done["sentences"][0].startswith("12 judgments of the arm “small margin” bought +")


def test_the_same_by_commands(tried: Tried) -> None:
    def prefloop(*words: str) -> str:
        result = CliRunner().invoke(cli, ["arms", *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return " ".join(result.output.split())

    asked = ("tone", "--run", str(tried.run.job_id), "--arm", "margin")
    assert "6 training runs on 12 pairs each" in prefloop("cost", *asked)
    as_user = ("--as", tried.engineer.username)
    assert "Trial 1 is training." in prefloop("try", *asked, *as_user)
    told = json.loads(prefloop("show", "tone", "--json"))
    assert (told["state"], set(told["runs"].values())) == ("training", {"queued"})
    assert "Trial 1 is stopped." in prefloop("stop", "tone", "1", *as_user)
