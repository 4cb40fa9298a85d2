"""The page of progress, the same over the API and by command."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.models import EvaluationState, User
from tests.routes.loop.test_verdicts import shown
from tests.services.loop.evaluated import Evaluated, outcomes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_page_api_and_command_show_the_same_scale(
    browser: TestClient, evaluated: Evaluated, api: Callable[[User], dict[str, str]]
) -> None:
    slug = evaluated.project.slug
    assert "No evaluation has ended yet" in browser.get(f"/projects/{slug}/progress").text
    assert "No evaluation has ended yet" in CliRunner().invoke(cli, ["progress", slug]).output
    evaluated.evaluation(outcomes(60, 30, 10), state=EvaluationState.DECIDED)
    text = shown(browser.get(f"/projects/{slug}/progress").text)
    assert "Win rate against tiny" in text and "65 %" in text and "1 evaluation on 100 prompts" in text
    rounds = browser.get(f"/api/v1/projects/{slug}/standings", headers=api(evaluated.engineer)).json()["rounds"]
    assert [row["checkpoint_id"] for row in rounds] == [None, evaluated.checkpoint.id]
    assert "65 %" in CliRunner().invoke(cli, ["progress", slug]).output
