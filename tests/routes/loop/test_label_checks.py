"""Label checks as people and scripts meet them: the cost first, the lists, leaving a pair out, files."""

import html
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict
from app.models import Job, JobKind, LabelCheck, User
from app.services.loop.labels import words
from app.services.training import checkpoints, runs
from tests.factory import Factory
from tests.services.loop.labels.checked import Checked
from tests.services.training.trained import trained_from
from tests.test_cli import prefloop

OWN = {"Sec-Fetch-Site": "same-origin"}
Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def checked(engine: Engine, settings: Settings, factory: Factory, tmp_path: Path) -> Checked:
    return Checked(engine, settings, factory, tmp_path)


def test_a_run_s_page_leads_over_the_cost_to_a_job_and_to_its_list(
    client: TestClient, engine: Engine, checked: Checked, sign_in: Sign
) -> None:
    sign_in(checked.maker)
    run = f"/jobs/{checked.run.job_id}"
    assert "Check the labels…" in client.get(run).text
    form = f"{run}/label-checks"
    assert "15 training runs on 32 pairs each" in client.get(form).text
    asked = {"folds": "2", "share": ["10", "20"], "plantings": "1"}
    shown = client.get(form, params=asked, headers={"HX-Request": "true"}).text
    assert "6 training runs on 20 pairs each" in shown and "<html" not in shown
    refused = client.post(form, data=asked | {"folds": "many"}, headers=OWN)
    assert refused.status_code == 422 and "choose 2 to 20" in refused.text and 'value="many"' in refused.text
    assert "too few for 20 folds" in client.get(form, params=asked | {"folds": "20"}).text
    sent = client.post(form, data=asked, headers=OWN)
    with read_session(engine) as session:
        (job,) = session.scalars(select(Job).where(Job.kind == JobKind.LABEL_CHECK))
    assert (sent.status_code, sent.headers["location"]) == (303, f"/jobs/{job.id}")
    assert f"The labels of run {checked.run.job_id}" in client.get(f"/jobs/{job.id}").text
    assert client.get(f"/label-checks/{job.id}").headers["location"] == f"/jobs/{job.id}", "nothing is there yet"

    done = checked.finish(checked.begin())
    assert done.result is not None
    page = html.unescape(client.get(f"/label-checks/{job.id}").text)
    for one in words.trust(done.result):
        assert one.sentence in page
    lines = checked.lines()
    strongest, other = lines[39]["comparison_id"], lines[20]["comparison_id"]
    assert f"/comparisons/{strongest}" in page and f"/comparisons/{other}" not in page
    assert "ana" in page.lower() and "ben" in page.lower()
    assert f"/comparisons/{strongest}" in client.get(run).text
    lower = client.get(f"/label-checks/{job.id}", params={"shown": "lower"}).text
    assert f"/comparisons/{lines[38]['comparison_id']}" in lower and "arXiv 2410.08847" in lower
    assert "beyond the last" in client.get(f"/label-checks/{job.id}", params={"page": 9}).text

    left = {"kind": "pair", "subject": strongest, "next": f"/label-checks/{job.id}?shown=contradict&page=1#pairs"}
    assert client.post(f"/projects/{checked.project.slug}/exclusions", data=left, headers=OWN).status_code == 303
    assert "left out" in client.get(f"/label-checks/{job.id}").text
    file = client.get(f"/label-checks/{job.id}/files/margins.jsonl")
    assert len(file.text.splitlines()) == 40
    assert client.get(f"/label-checks/{job.id}/files/pairs.jsonl").status_code == 404


def test_a_check_of_before_of_a_run_that_started_from_a_checkpoint_says_what_its_models_were(
    client: TestClient, engine: Engine, checked: Checked, sign_in: Sign
) -> None:
    """Its models started from the base model; a check of a run whose start knows its pairs is refused."""
    sign_in(checked.maker)
    done = checked.finish(checked.begin())
    with read_session(engine) as session:
        (start,) = checkpoints.of_run(session, run=runs.get(session, checked.run.job_id))
    again, _ = trained_from(engine, checked.settings, checked.project, checked.maker, start, new_pairs_only=False)
    form = f"/jobs/{again.job_id}/label-checks"
    refused = client.post(form, data={"folds": "2", "share": "10", "plantings": "1"}, headers=OWN)
    assert refused.status_code == 409 and f"started from checkpoint {start.id}, which had been trained" in refused.text
    assert "Check the labels anew" not in client.get(f"/label-checks/{done.job_id}").text
    with write_session(engine) as session:
        session.execute(update(LabelCheck).values(of_job_id=again.job_id))
    assert "Check the labels anew" in client.get(f"/label-checks/{done.job_id}").text
    assert f"/label-checks/{done.job_id}" not in client.get(f"/jobs/{again.job_id}").text


def test_scripts_ask_for_the_cost_start_one_and_go_through_its_pairs(
    client: TestClient, engine: Engine, checked: Checked, api: Api
) -> None:
    header = api(checked.maker)
    of_run = f"/api/v1/jobs/{checked.run.job_id}/label-checks"
    plan = {"folds": 2, "shares": [0.1, 0.2], "plantings": 1}
    told = client.post(f"{of_run}/cost", json=plan, headers=header).json()
    assert (told["runs"], told["pairs"]) == (6, 20) and told["sentence"]
    made = client.post(of_run, json=plan, headers=header)
    assert (made.status_code, made.json()["kind"], made.json()["result"]) == (201, "label_check", None)
    assert client.post(of_run, json=plan, headers=header).json()["id"] == made.json()["id"]
    assert client.post(of_run, json=plan | {"shares": [0.9]}, headers=header).status_code == 422
    done = checked.finish(checked.begin())
    one = client.get(f"/api/v1/label-checks/{done.job_id}", headers=header).json()
    assert [told["share"] for told in one["trust"]] == [0.1, 0.2] and one["result"] == done.result
    assert [item["id"] for item in client.get(of_run, headers=header).json()["items"]] == [done.job_id]
    pairs = f"/api/v1/label-checks/{done.job_id}/pairs"
    listed = client.get(pairs, headers=header).json()
    lines = checked.lines()
    assert [(item["comparison_id"], item["margin"]) for item in listed["items"]] == [
        (lines[39]["comparison_id"], -4.0),
        (lines[35]["comparison_id"], pytest.approx(-3.6)),
    ]
    lower = client.get(pairs, params={"list": "lower"}, headers=header).json()["items"]
    assert [item["ches"] for item in lower] == [40.0, 39.0]
    name = one["files"][0]["name"]
    file = client.get(f"/api/v1/label-checks/{done.job_id}/files/{name}", headers=header)
    assert [json.loads(line)["comparison_id"] for line in file.text.splitlines()] == [
        line["comparison_id"] for line in lines
    ]


def test_commands_do_the_same(engine: Engine, checked: Checked) -> None:
    run = str(checked.run.job_id)
    asked = (
        "labels",
        "check",
        run,
        "--folds",
        "2",
        "--plant",
        "0.1",
        "--plant",
        "0.2",
        "--plantings",
        "1",
        "--as",
        checked.maker.username,
    )
    assert "6 training runs" in prefloop(*asked, "--dry-run").output
    assert "No label checks yet" in prefloop("labels", "list", run).output
    assert "is queued" in prefloop(*asked).output
    check = checked.begin()
    number = str(check.job_id)
    assert "is queued" in prefloop("labels", "show", number).output
    with pytest.raises(Conflict, match="isn't done"):
        prefloop("labels", "pairs", number)
    checked.finish(check)
    assert "planted in this same data" in " ".join(prefloop("labels", "show", number).output.split())
    (first, _) = prefloop("labels", "pairs", number, "--json").output.splitlines()
    assert json.loads(first)["margin"] == -4.0
    assert json.loads(prefloop("labels", "list", run, "--json").output)["state"] == "succeeded"
