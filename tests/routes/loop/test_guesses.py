"""The page of guesses, the same over the API and by command."""

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.models import EvaluationState, User
from tests.services.loop.evaluated import Evaluated

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}


def offers(browser: TestClient, slug: str) -> list[bool]:
    """Whether the project's menu, and the person's own judgments, lead to the guesses."""
    places = f"/menu/projects?project={slug}", f"/projects/{slug}/history"
    return [f'href="/projects/{slug}/guess"' in browser.get(place).text for place in places]


def test_nobody_is_led_to_guesses_who_has_none_to_make(
    evaluated: Evaluated, sign_in: Callable[[User], TestClient]
) -> None:
    evaluated.evaluation("wl", people=1)
    browser, slug = sign_in(evaluated.person(0)), evaluated.project.slug
    assert offers(browser, slug) == [False, False], "it still asks"
    assert "/guess" not in browser.get("/menu/projects?project=nowhere").text
    assert "Which was new?" not in browser.get(f"/projects/{slug}/compare").text


def test_an_evaluator_guesses_and_hears_nothing(
    evaluated: Evaluated, sign_in: Callable[[User], TestClient], api: Callable[[User], dict[str, str]]
) -> None:
    evaluated.evaluation("wlwl", people=1, state=EvaluationState.DECIDED)
    judge, slug = evaluated.person(0), evaluated.project.slug
    browser, token = sign_in(judge), api(judge)
    assert offers(browser, slug) == [True, True]
    page = browser.get(f"/projects/{slug}/guess").text
    assert "1 of 4" in page and "leave the guessing to others" not in page
    pair = re.search(r'name="pair" value="(\d+)"', page)[1]
    reply = browser.post(f"/projects/{slug}/guess", data={"pair": pair, "side": "left"}, headers=OWN)
    assert reply.status_code == 303
    riddle = browser.get(f"/api/v1/projects/{slug}/guesses/next", headers=token).json()
    assert riddle["number"] == 2
    body = {"pair_id": riddle["pair_id"], "side": "right"}
    assert browser.post(f"/api/v1/projects/{slug}/guesses", json=body, headers=token).status_code == 204
    shown = CliRunner().invoke(cli, ["guess", slug, "--as", judge.username]).output
    third = re.search(r"Pair (\d+), 3 of 4", shown)[1]
    last = CliRunner().invoke(cli, ["guess", slug, "--as", judge.username, "--pair", third, "--side", "left"]).output
    fourth = re.search(r"Pair (\d+), 4 of 4", last)[1]
    browser.post(f"/projects/{slug}/guess", data={"pair": fourth, "side": "left"}, headers=OWN)
    assert "Nothing to guess on" in browser.get(f"/projects/{slug}/guess").text
    assert offers(browser, slug) == [False, False]
    assert browser.get(f"/api/v1/projects/{slug}/guesses/next", headers=token).status_code == 204
