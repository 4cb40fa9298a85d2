"""Whose preferences were learned, as people and scripts meet it."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import User
from app.services.loop.labels import learned
from tests.factory import Factory
from tests.services.loop.labels.studied import Studied
from tests.test_cli import prefloop

OWN = {"Sec-Fetch-Site": "same-origin"}
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def studied(engine: Engine, settings: Settings, factory: Factory) -> Studied:
    return Studied(engine, settings, factory)


def test_the_page_tells_the_cost_starts_the_runs_and_says_what_they_said(
    client: TestClient, engine: Engine, studied: Studied, sign_in: Sign
) -> None:
    sign_in(studied.maker)
    where = f"/jobs/{studied.run.job_id}/people"
    assert where in client.get(f"/jobs/{studied.run.job_id}").text
    assert "Choose one to 10 people" in client.get(where).text
    asked = {"person": [str(studied.ben.id)], "seeds": "1"}
    shown = client.get(where, params=asked, headers={"HX-Request": "true"}).text
    assert "2 training runs" in shown and "<html" not in shown
    refused = client.post(where, data=asked | {"seeds": "x"}, headers=OWN)
    assert refused.status_code == 422 and "choose 1 to 5" in refused.text
    assert client.post(where, data=asked, headers=OWN).headers["location"] == where
    assert "0 of 2 runs are done." in client.get(where).text
    study = studied.begin(studied.ben)
    studied.finish(study)
    assert "compared in a moment" in client.get(where).text
    learned.settle_all(engine, studied.storage)
    page = client.get(where).text
    assert "their preferences were learned" in page and "+100" in page


def test_scripts_and_commands_do_the_same(client: TestClient, engine: Engine, studied: Studied, api: Api) -> None:
    header, run = api(studied.maker), str(studied.run.job_id)
    where = f"/api/v1/jobs/{run}/person-studies"
    body = {"people": [studied.ben.id], "seeds": 1}
    assert client.post(f"{where}/cost", json=body, headers=header).json()["runs"] == 2
    made = client.post(where, json=body, headers=header)
    (item,) = made.json()["items"]
    assert made.status_code == 201 and [one["user_id"] for one in item["runs"]] == [None, studied.ben.id]
    assert client.post(where, json=body | {"people": [999]}, headers=header).status_code == 422
    acting = ("--as", studied.maker.username)
    voted = prefloop("labels", "people", run, "--json").output.splitlines()
    assert [json.loads(line)["id"] for line in voted] == [studied.ana.id, studied.ben.id]
    ben = ("--person", str(studied.ben.id))
    assert "2 training runs" in prefloop("labels", "people", run, *ben, "--dry-run", *acting).output
    assert f"Study {item['id']}" in prefloop("labels", "people", run, *ben, *acting).output, "the same study"
    assert "0 of 2 runs" in prefloop("labels", "learned", run).output
    study = studied.begin(studied.ben)
    studied.finish(study)
    learned.settle_all(engine, studied.storage)
    assert "preferences were learned" in " ".join(prefloop("labels", "learned", run).output.split())
    (done,) = client.get(where, headers=header).json()["items"]
    assert done["result"]["people"][0]["user_id"] == studied.ben.id and done["compared_at"]
    (line,) = prefloop("labels", "learned", run, "--json").output.splitlines()
    assert json.loads(line)["result"] == done["result"]
