"""Aliases on their page, on the checkpoint, over the API and by command, and a folder that follows one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.models import EvaluationState, User
from tests.factory import Factory
from tests.routes.loop.test_verdicts import shown
from tests.services.loop.evaluated import Evaluated, outcomes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}


def test_make_it_candidate_from_the_verdict(browser: TestClient, evaluated: Evaluated) -> None:
    evaluated.evaluation(outcomes(60, 20), state=EvaluationState.DECIDED)
    address = f"/checkpoints/{evaluated.checkpoint.id}"
    page = browser.get(f"/projects/{evaluated.project.slug}/evaluations/1").text
    assert "Make it candidate" in page and f'action="{address}/aliases"' in page
    reply = browser.post(f"{address}/aliases", data={"name": "candidate", "why": "Better."}, headers=OWN)
    assert (reply.status_code, reply.headers["location"]) == (303, f"/projects/{evaluated.project.slug}/aliases")
    text = shown(browser.get(reply.headers["location"]).text)
    assert f"“candidate” means checkpoint {evaluated.checkpoint.id} now." in text and "Better." in text
    assert "#candidate" in browser.get(address).text


def test_one_asks_and_another_approves_on_the_page(
    browser: TestClient, evaluated: Evaluated, factory: Factory, sign_in: Callable[[User], TestClient]
) -> None:
    url = f"/projects/{evaluated.project.slug}/aliases"
    browser.post(f"{url}/production/rule", data={"needs_approval": "true"}, headers=OWN)
    browser.post(f"/checkpoints/{evaluated.checkpoint.id}/aliases", data={"name": "production"}, headers=OWN)
    page = browser.get(url).text
    assert "Somebody else has to approve it." in page and "/approve" not in page
    assert browser.post(f"{url}/production/approve", headers=OWN).status_code == 403
    other = sign_in(factory.engineer())
    assert "/approve" in other.get(url).text
    assert other.post(f"{url}/production/approve", headers=OWN).status_code == 303
    assert f"It means checkpoint {evaluated.checkpoint.id}" in shown(other.get(url).text)


def test_the_api_and_the_command_do_the_same(
    client: TestClient, evaluated: Evaluated, api: Callable[[User], dict[str, str]], tmp_path: Path
) -> None:
    second = evaluated.another()
    token, slug = api(evaluated.engineer), evaluated.project.slug
    url = f"/api/v1/projects/{slug}/aliases"
    made = client.put(f"{url}/production", json={"checkpoint_id": evaluated.checkpoint.id, "why": "It."}, headers=token)
    assert made.status_code == 200 and made.json()["checkpoint_id"] == evaluated.checkpoint.id

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, ["aliases", *words])
        assert result.exit_code == 0, result.output
        return result.output

    run("follow", slug, "production", "--into", str(tmp_path / "served"))
    assert (tmp_path / "served" / "production" / "adapter_config.json").is_file()
    assert f"means checkpoint {second.id} now" in run("set", slug, "production", str(second.id), "--because", "Newer.")
    assert str(second.id) in run("follow", slug, "production", "--into", str(tmp_path / "served"))
    assert "again" in run("back", slug, "production")
    told = client.get(f"{url}/production", headers=token).json()
    assert [event["deed"] for event in told["history"]] == ["back", "moved", "moved"]
    assert "needs a verdict: better" in run("rule", slug, "production", "--verdict", "better")
    refused = client.put(f"{url}/production", json={"checkpoint_id": second.id}, headers=token)
    assert (refused.status_code, refused.json()["code"]) == (409, "gate_closed")
    assert "Newer." in run("history", slug, "production") and "production" in run("list", slug)
    run("remove", slug, "production")
    assert "isn't there" in run("follow", slug, "production", "--into", str(tmp_path / "served"))
    assert not (tmp_path / "served" / "production").exists()


def test_a_doubled_click_goes_back_one_step(browser: TestClient, evaluated: Evaluated) -> None:
    first, second, third = evaluated.checkpoint, evaluated.another(), evaluated.another()
    for checkpoint in (first, second, third):
        browser.post(f"/checkpoints/{checkpoint.id}/aliases", data={"name": "candidate"}, headers=OWN)
    url = f"/projects/{evaluated.project.slug}/aliases"
    sent = {"seen": f"{third.id}-0"}
    assert f'name="seen" value="{third.id}-0"' in browser.get(url).text
    assert [
        browser.post(f"{url}/candidate/back", data=sent, headers=OWN, follow_redirects=False).status_code
        for _ in range(2)
    ] == [303, 409]
    assert f"It means checkpoint {second.id}" in shown(browser.get(url).text)
