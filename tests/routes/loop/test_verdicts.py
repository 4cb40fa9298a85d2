"""The page of a verdict in every state, the panel of a checkpoint, and the same over the API and the command line."""

import html
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.commands.loop import verdicts as command
from app.models import EvaluationState, User
from app.services.loop import verdicts
from tests.factory import Factory
from tests.services.loop.evaluated import Evaluated, outcomes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def shown(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def page_of(browser: TestClient, evaluated: Evaluated, number: int, query: str = "") -> str:
    reply = browser.get(f"/projects/{evaluated.project.slug}/evaluations/{number}{query}")
    assert reply.status_code == 200, reply.text
    return reply.text


def test_the_page_reads_in_a_minute(browser: TestClient, evaluated: Evaluated) -> None:
    evaluated.evaluation(outcomes(60, 20, 10, 10), state=EvaluationState.DECIDED, people=4)
    page = page_of(browser, evaluated, 1)
    text = shown(page)
    assert f"Checkpoint {evaluated.checkpoint.id} against tiny" in text
    assert "Better. 70 % of 100 prompts, judged blind by 4 people (" in text
    assert "goal: above 50 %)." in text and "It stopped when the goal was reached." in text
    assert "At equal length" in text and "Without any one person:" in text and "10 of 100: same answer." in text
    assert "the 20 it lost" in text and "how this was decided" in text
    assert "Judge-1" in text and "over-time-band" in page


def test_what_it_lost_and_won_stands_side_by_side(browser: TestClient, evaluated: Evaluated) -> None:
    evaluated.evaluation("lwt=", state=EvaluationState.STOPPED, texts=("Press Export now.", "Press the Export button."))
    lost = page_of(browser, evaluated, 1)
    assert re.findall(r"<ins>(.*?)</ins>", lost) == ["now"]
    assert [text.strip() for text in re.findall(r"<del>(.*?)</del>", lost)] == ["the", "button"]
    assert "Old <span" in lost and "Stopped, undecided" in lost
    fragment = browser.get(
        f"/projects/{evaluated.project.slug}/evaluations/1?shown=same", headers={"HX-Request": "true"}
    ).text
    assert "<h3>Both</h3>" in fragment and "<html" not in fragment


def test_a_running_batch_says_how_many_more_and_shows_no_pair(browser: TestClient, evaluated: Evaluated) -> None:
    evaluated.evaluation(outcomes(24, 16), open_pairs=400)
    text = shown(page_of(browser, evaluated, 1))
    assert "So far 60 % of 40 prompts" in text and "until it is decided." in text
    assert "Shown when the batch has ended" in text and "Press Export" not in text


@pytest.mark.parametrize(
    ("letters", "more", "expected"),
    [
        ("", {"open_pairs": 5, "state": EvaluationState.PREPARING}, "Being prepared."),
        ("", {"open_pairs": 5}, "Not judged yet."),
        ("wl", {"state": EvaluationState.VOID, "reason": "Its prompts were trained on."}, "Void. Its prompts were"),
        ("l" * 30, {"state": EvaluationState.DECIDED}, "Worse. 0 % of 30 prompts"),
        ("wl" * 10, {"state": EvaluationState.DECIDED}, "Undecided. 50 % of 20 prompts"),
        ("=" * 10, {"state": EvaluationState.DECIDED}, "Undecided. 50 % of 10 prompts"),
    ],
)
def test_every_state_has_its_page(
    browser: TestClient, evaluated: Evaluated, letters: str, more: dict[str, object], expected: str
) -> None:
    evaluated.evaluation(letters, **more)
    assert expected in shown(page_of(browser, evaluated, 1))
    assert browser.get(f"/checkpoints/{evaluated.checkpoint.id}").status_code == 200


def test_it_comes_first_on_the_checkpoint_and_goes_with_its_card_and_archive(
    browser: TestClient, evaluated: Evaluated, api: Callable[[User], dict[str, str]], tmp_path: Path
) -> None:
    address = f"/checkpoints/{evaluated.checkpoint.id}"
    plain = browser.get(f"{address}/archive.tar")
    evaluated.evaluation(outcomes(60, 20), state=EvaluationState.DECIDED)
    page = browser.get(address).text
    assert page.index("Better.") < page.index("Before and after")
    assert "Judged blind" in page
    archive = browser.get(f"{address}/archive.tar")
    assert archive.headers["etag"] != plain.headers["etag"]
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as files:
        (name,) = [name for name in files.getnames() if name.endswith("EVALUATIONS.md")]
        assert b"Better. 75 % of 80 prompts" in files.extractfile(name).read()
    whole = browser.get(f"/api/v1{address}/card", headers=api(evaluated.engineer))
    assert whole.headers["content-type"].startswith("text/markdown") and whole.text.startswith("---")
    assert "Judged blind" in whole.text and "Better. 75 % of 80 prompts" in whole.text
    number = str(evaluated.checkpoint.id)
    assert "Better. 75 % of 80 prompts" in CliRunner().invoke(cli, ["checkpoints", "card", number]).output
    printed = CliRunner().invoke(cli, ["checkpoints", "download", number, "--out", str(tmp_path)]).output
    assert "EVALUATIONS.md" in printed and "Better. 75 %" in (tmp_path / "EVALUATIONS.md").read_text()
    part = browser.get(f"{address}/archive.tar", headers={"Range": "bytes=100-4000"})
    assert part.content == archive.content[100:4001]


def test_evaluators_never_see_it(
    evaluated: Evaluated, factory: Factory, sign_in: Callable[[User], TestClient], api: Callable[[User], dict[str, str]]
) -> None:
    row = evaluated.evaluation(outcomes(60, 20), state=EvaluationState.DECIDED)
    judge = factory.user()
    browser = sign_in(judge)
    assert browser.get(f"/projects/{evaluated.project.slug}/evaluations/1").status_code == 403
    assert browser.get(f"/api/v1/evaluations/{row.id}/verdict", headers=api(judge)).status_code == 403


def test_the_api_says_what_the_page_says(
    client: TestClient, evaluated: Evaluated, api: Callable[[User], dict[str, str]]
) -> None:
    row = evaluated.evaluation(outcomes(60, 20, 10, 10), state=EvaluationState.DECIDED, people=4)
    told = client.get(f"/api/v1/evaluations/{row.id}/verdict", headers=api(evaluated.engineer)).json()
    assert told["headline"] == "Better" and told["summary"].startswith("Better. 70 % of 100 prompts")
    assert told["verdict"]["word"] == "better" and told["verdict"]["stop"] == "goal"
    assert told["verdict"]["same"] == 10 and "10 of 100: same answer." in told["notes"]
    assert len(told["people"]) == 4
    assert client.get("/api/v1/evaluations/99/verdict", headers=api(evaluated.engineer)).status_code == 404


@pytest.mark.parametrize(
    ("letters", "more", "code"),
    [
        ("w" * 40, {"state": EvaluationState.DECIDED}, 0),
        ("l" * 40, {"state": EvaluationState.DECIDED}, 1),
        ("wl" * 10, {"state": EvaluationState.DECIDED}, 2),
        ("wl", {"state": EvaluationState.VOID}, 3),
        ("wl", {"open_pairs": 3}, 4),
    ],
)
def test_the_command_waits_and_says_by_its_exit_code(
    evaluated: Evaluated, letters: str, more: dict[str, object], code: int
) -> None:
    row = evaluated.evaluation(letters, **more)
    result = CliRunner().invoke(cli, ["verdict", str(row.id), "--wait", "--timeout", "0"])
    assert result.exit_code == code, result.output
    assert f"/projects/{evaluated.project.slug}/evaluations/1" in result.output
    assert CliRunner().invoke(cli, ["verdict", str(row.id)]).exit_code == 0


def test_waiting_ends_when_the_batch_does(evaluated: Evaluated, engine: object) -> None:
    from app.db import write_session
    from app.models import Evaluation

    row = evaluated.evaluation("w" * 40, open_pairs=4)

    def later(_: float) -> None:
        with write_session(evaluated.engine) as session:
            session.get_one(Evaluation, row.id).state = EvaluationState.DECIDED

    told = command.await_end(row.id, timeout=None, pause=later)
    assert command.exit_code(told) == command.GOAL
    assert verdicts.current(evaluated.engine, row.id).evaluation.state is EvaluationState.DECIDED
