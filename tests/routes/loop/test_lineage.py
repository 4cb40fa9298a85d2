"""Lineage and retraining as people and scripts meet them: panels, calls, commands."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import User
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.services.training.trained import trained
from tests.test_cli import prefloop

OWN = {"Sec-Fetch-Site": "same-origin"}
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_every_page_shows_where_it_stands_and_what_was_excluded(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, sign_in: Sign
) -> None:
    admin = factory.admin()
    project = factory.judged(4, eval_percent=0)
    run, checkpoint = trained(engine, settings, project, admin)
    sign_in(admin)
    pages = ["/comparisons/1", "/snapshots/1", f"/jobs/{run.job_id}", f"/checkpoints/{checkpoint.id}"]
    for page in pages:
        text = client.get(page).text
        assert 'id="lineage"' in text and "excluded later" not in text, page
    where = f"/projects/{project.slug}/exclusions"
    client.post(where, data={"kind": "pair", "subject": 1, "next": "/comparisons/1"}, headers=OWN)
    for page in pages[1:]:
        assert "Holds 1 pair that was excluded later." in client.get(page).text, page
    for page in pages[2:]:
        assert "Retrain without" in client.get(page).text, page
    sent = client.post(f"/jobs/{run.job_id}/retrain-without", headers=OWN)
    assert sent.status_code == 303
    text = client.get(sent.headers["location"]).text
    assert "Receipt" in text and "when it is done" in text and "excluded later" not in text
    assert f"run {run.job_id + 1}" in client.get(f"/jobs/{run.job_id}").text
    assert "made_without" not in client.get("/snapshots/2").text


def test_scripts_ask_and_retrain(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, api: Api
) -> None:
    admin = factory.admin()
    project = factory.judged(3, eval_percent=0)
    run, checkpoint = trained(engine, settings, project, admin)
    token = api(admin)
    assert client.post(f"/api/v1/jobs/{run.job_id}/retrain-without", headers=token).status_code == 409
    assert client.get(f"/api/v1/jobs/{run.job_id}/receipt", headers=token).status_code == 404
    where = f"/api/v1/projects/{project.slug}/exclusions"
    client.post(where, json={"kind": "pair", "subject": 2}, headers=token)
    told = client.get("/api/v1/comparisons/2/lineage", headers=token).json()
    assert [(one["kind"], one["excluded"]) for one in told["nodes"]] == [
        ("pair", 0),
        ("snapshot", 1),
        ("run", 1),
        ("checkpoint", 1),
    ]
    for path in ("snapshots/1", f"jobs/{run.job_id}", f"checkpoints/{checkpoint.id}"):
        assert client.get(f"/api/v1/{path}/lineage", headers=token).json()["excluded"] == 1, path
    made = client.post(f"/api/v1/jobs/{run.job_id}/retrain-without", headers=token).json()
    assert made["snapshot_id"] == 2
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    receipt = client.get(f"/api/v1/jobs/{made['job_id']}/receipt", headers=token).json()
    assert receipt["pairs_left_out"] == 1 and receipt["before"]["weights"] and receipt["after"]["weights"]


def test_the_command_line_does_the_same(engine: Engine, settings: Settings, factory: Factory) -> None:
    admin = factory.admin()
    project = factory.judged(3, eval_percent=0)
    run, checkpoint = trained(engine, settings, project, admin)
    prefloop("exclude", "pair", project.slug, "1")
    for words in (("pair", "1"), ("judgment", "1"), ("snapshot", "1"), ("run", str(run.job_id))):
        rows = [json.loads(line) for line in prefloop("lineage", *words, "--json").output.splitlines()]
        assert rows[-1] | {"title": ""} == {
            "kind": "checkpoint",
            "id": checkpoint.id,
            "title": "",
            "state": "",
            "excluded": 1,
            "from": f"run {run.job_id}",
        }, words
    assert "is queued" in prefloop("lineage", "retrain", str(run.job_id)).output
    receipt = json.loads(prefloop("lineage", "receipt", str(run.job_id + 1)).output)
    assert receipt["after"]["snapshot_number"] == 2
    assert "checkpoint" in prefloop("lineage", "checkpoint", str(checkpoint.id)).output
