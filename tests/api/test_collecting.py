"""The loop's first half over /api/v1, as a script drives it."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.db import read_session
from app.models import Comparison, Project, Role, User
from tests.factory import Factory

Api = Callable[[User], dict[str, str]]


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def waiting(count: int) -> bytes:
    return lines(
        *(
            {
                "prompt": f"Question {number}?",
                "responses": [f"Yes, {number}.", f"No, {number}."],
                "sources": ["secret-model", "other-model"],
                "id": f"secret-{number}",
            }
            for number in range(count)
        )
    )


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(slug="tone")


@pytest.fixture
def engineer(factory: Factory, api: Api) -> dict[str, str]:
    return api(factory.engineer())


@pytest.fixture
def evaluator(factory: Factory, api: Api) -> dict[str, str]:
    return api(factory.user())


def test_a_script_goes_from_a_project_to_a_snapshot(
    client: TestClient, engineer: dict[str, str], evaluator: dict[str, str]
) -> None:
    new = {"slug": "tone", "name": "Tone", "guidelines": "Be *kind*.", "open_to_everybody": True}
    made = client.post("/api/v1/projects", headers=engineer, json=new)
    assert made.status_code == 201 and made.json()["guideline_version"] == 1
    told = client.post("/api/v1/projects/tone/import?filename=pairs.jsonl", headers=engineer, content=waiting(30))
    assert told.status_code == 200
    assert {key: told.json()[key] for key in ("lines", "added", "duplicates", "rejected", "state", "filename")} == {
        "lines": 30,
        "added": 30,
        "duplicates": 0,
        "rejected": 0,
        "state": "done",
        "filename": "pairs.jsonl",
    }
    judged = 0
    while (pair := client.post("/api/v1/projects/tone/next", headers=evaluator)).status_code == 200:
        choice = "left" if pair.json()["left"].startswith("Yes") else "right"
        done = client.post(
            "/api/v1/judgments",
            headers=evaluator,
            json={"token": pair.json()["token"], "choice": choice, "strength": 2},
        )
        assert done.status_code == 200 and done.json()["choice"] == choice
        judged += 1
    assert (judged, pair.status_code) == (30, 204)
    frozen = client.post("/api/v1/projects/tone/snapshots", headers=engineer)
    assert frozen.status_code == 201 and frozen.json()["counts"]["pairs"] == 30
    assert client.get(f"/api/v1/snapshots/{frozen.json()['id']}", headers=engineer).json() == frozen.json()
    rows = []
    for file in frozen.json()["files"]:
        reply = client.get(f"/api/v1/snapshots/{frozen.json()['id']}/files/{file['name']}", headers=engineer)
        assert reply.headers["ETag"] == f'"{file["sha256"]}"' and len(reply.content) == file["size"]
        rows += [json.loads(line) for line in reply.content.splitlines()]
    assert len(rows) == 30
    assert all(row["chosen"][0]["content"].startswith("Yes") and row["chosen_source"] == "secret-model" for row in rows)


def test_nothing_that_an_evaluator_gets_names_a_source(
    client: TestClient, project: Project, engineer: dict[str, str], evaluator: dict[str, str]
) -> None:
    client.post("/api/v1/projects/tone/import", headers=engineer, content=waiting(4))
    pair = client.post("/api/v1/projects/tone/next", headers=evaluator)
    assert set(pair.json()) == {"token", "prompt", "left", "right", "leased_until", "guideline_version", "previous"}
    answers = [
        pair,
        client.post("/api/v1/judgments", headers=evaluator, json={"token": pair.json()["token"], "choice": "left"}),
        client.post("/api/v1/projects/tone/undo", headers=evaluator),
        client.get("/api/v1/projects/tone/judgments", headers=evaluator),
        client.get("/api/v1/projects/tone", headers=evaluator),
        client.get("/api/v1/projects", headers=evaluator),
    ]
    assert all(
        reply.status_code == 200 and "secret" not in reply.text and "other-model" not in reply.text for reply in answers
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "projects"),
        ("PATCH", "projects/tone"),
        ("PUT", "projects/tone/guidelines"),
        ("GET", "projects/tone/comparisons"),
        ("POST", "projects/tone/import"),
        ("GET", "projects/tone/imports"),
        ("GET", "projects/tone/preview"),
        ("POST", "projects/tone/preview"),
        ("GET", "projects/tone/snapshots"),
        ("POST", "projects/tone/snapshots"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_evaluator_is_refused_what_is_for_engineers(
    client: TestClient, project: Project, evaluator: dict[str, str], method: str, path: str
) -> None:
    body: dict[str, Any] = {"slug": "x", "name": "X", "text": "x"}
    reply = client.request(method, f"/api/v1/{path}", headers=evaluator, json=body if method != "GET" else None)
    assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed")
    assert client.request(method, f"/api/v1/{path}", json=body if method != "GET" else None).status_code == 401


def test_a_retry_answers_the_same_judgment_and_another_choice_a_conflict(
    client: TestClient, factory: Factory, project: Project, evaluator: dict[str, str]
) -> None:
    factory.comparison(project)
    token = client.post("/api/v1/projects/tone/next", headers=evaluator).json()["token"]
    body = {"token": token, "choice": "tie", "rationale": " Both are fine. "}
    first, again = (client.post("/api/v1/judgments", headers=evaluator, json=body) for _ in range(2))
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    other = client.post("/api/v1/judgments", headers=evaluator, json=body | {"choice": "left"})
    assert (other.status_code, other.json()["code"], other.json()["judgment_id"]) == (
        409,
        "conflict",
        first.json()["id"],
    )
    assert "Undo" in other.json()["next_step"]


def test_a_released_pair_is_free_and_its_token_gives_nothing_to_others(
    client: TestClient, factory: Factory, project: Project, evaluator: dict[str, str], engineer: dict[str, str]
) -> None:
    factory.comparison(project)
    token = client.post("/api/v1/projects/tone/next", headers=evaluator).json()["token"]
    assert client.post("/api/v1/projects/tone/next", headers=engineer).status_code == 204
    assert client.post("/api/v1/release", headers=engineer, json={"token": token}).status_code == 404
    assert (
        client.post("/api/v1/judgments", headers=engineer, json={"token": token, "choice": "left"}).status_code == 404
    )
    assert client.post("/api/v1/release", headers=evaluator, json={"token": token}).status_code == 204
    assert client.post("/api/v1/projects/tone/next", headers=engineer).status_code == 200


def test_bad_lines_are_told_by_number_and_reason_and_the_good_ones_stay(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    body = b'{"prompt": "a", "responses": ["x", "y"]}\nnonsense\n\n{"prompt": "a", "responses": ["y", "x"]}\n{"prompt": "b", "responses": ["x", " "]}'
    reply = client.post("/api/v1/projects/tone/import", headers=engineer, content=body).json()
    assert [(bad["line"], bad["reason"]) for bad in reply["rejections"]] == [(2, "bad_json"), (5, "empty_answer")]
    assert (reply["lines"], reply["added"], reply["duplicates"], reply["rejected"]) == (4, 1, 1, 2)
    assert client.get(f"/api/v1/imports/{reply['id']}", headers=engineer).json() == reply
    assert client.get("/api/v1/projects/tone/imports", headers=engineer).json() == [reply]


def test_a_gzip_that_comes_in_pieces_is_read(client: TestClient, project: Project, engineer: dict[str, str]) -> None:
    packed = gzip.compress(waiting(1200))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(packed), 700):
            yield packed[start : start + 700]

    assert client.post("/api/v1/projects/tone/import", headers=engineer, content=pieces()).json()["added"] == 1200


def test_a_cut_off_gzip_is_an_error_that_says_what_was_read(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    packed = gzip.compress(waiting(2000))
    reply = client.post("/api/v1/projects/tone/import", headers=engineer, content=packed[: len(packed) * 2 // 3])
    assert (reply.status_code, reply.json()["code"]) == (422, "import_broken")
    assert "cut off" in reply.json()["detail"]
    assert 0 < reply.json()["import_"]["added"] < 2000
    whole = client.post("/api/v1/projects/tone/import", headers=engineer, content=packed).json()
    assert whole["added"] + whole["duplicates"] == 2000 and whole["duplicates"] == reply.json()["import_"]["added"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_of_which_nothing_is_accepted_is_an_error_with_its_counts(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    address = "/api/v1/projects/tone/import"
    reply = client.post(address, headers=engineer, content=b'{"prompt": 5, "responses": ["a", "b"]}\n' * 3)
    assert (reply.status_code, reply.json()["code"]) == (422, "import_broken")
    counts = reply.json()["import_"]
    assert (counts["lines"], counts["added"], counts["rejected"], counts["state"]) == (3, 0, 3, "failed")
    lost = waiting(3).replace(b"\n", b"")
    assert "--data-binary" in client.post(address, headers=engineer, content=lost).json()["detail"]
    csv = b"prompt,chosen,rejected\nName a fruit.,Pear,Car\n"
    assert client.post(address, headers=engineer, content=csv).json()["judged"] == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_columns_are_named_in_the_address_and_told_in_the_reply(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    address = "/api/v1/projects/tone/import"
    line = b'{"frage": "q", "a": "x", "b": "y", "z": 1}'
    said = "map=frage=prompt&map=a=first&map=b=second"
    reply = client.post(f"{address}?{said}", headers=engineer, content=line).json()
    assert (reply["added"], reply["mapping"]) == (1, {"frage": "prompt", "a": "first", "b": "second"})
    assert reply["report"]["columns"]["z"] == {"left_out": 1} and "left out: `z`" in reply["report"]["recognised"]
    assert client.post(address, headers=engineer, content=line).json()["duplicates"] == 1
    for wrong in ("map=frage", "map=frage=king"):
        assert client.post(f"{address}?{wrong}", headers=engineer, content=line).status_code == 422
    stopped = client.post(f"/api/v1/imports/{reply['id']}/stop", headers=engineer)
    assert (stopped.status_code, stopped.json()["state"]) == (200, "done")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_form_upload_and_an_empty_body_are_explained(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    form = client.post("/api/v1/projects/tone/import", headers=engineer, files={"file": ("pairs.jsonl", waiting(1))})
    assert form.status_code == 422 and "--data-binary" in form.json()["next_step"]
    assert "no lines" in client.post("/api/v1/projects/tone/import", headers=engineer, content=b"").json()["detail"]


def test_an_empty_snapshot_says_what_is_missing(
    client: TestClient, factory: Factory, project: Project, engineer: dict[str, str]
) -> None:
    factory.comparisons(project, 3)
    reply = client.post("/api/v1/projects/tone/snapshots", headers=engineer, json={"rule": {"min_judgments": 2}})
    assert (reply.status_code, reply.json()["code"]) == (409, "snapshot_empty")
    assert "3 without a judgment" in reply.json()["detail"] and reply.json()["left_out"] == {"not_judged": 3}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_rules_and_guidelines_change_over_the_api(
    client: TestClient, project: Project, engineer: dict[str, str]
) -> None:
    changed = client.patch(
        "/api/v1/projects/tone",
        headers=engineer,
        json={"allow_tie": False, "judgments_per_comparison": 3, "name": "New"},
    )
    assert changed.status_code == 200 and (changed.json()["allow_tie"], changed.json()["name"]) == (False, "New")
    assert (
        client.put("/api/v1/projects/tone/guidelines", headers=engineer, json={"text": "Second."}).json()["version"]
        == 2
    )
    assert (
        client.get("/api/v1/projects/tone/guidelines?version=1", headers=engineer).json()["text"]
        == "Pick the shorter answer."
    )
    assert client.get("/api/v1/projects/tone/guidelines", headers=engineer).json()["text"] == "Second."
    for body in ({"eval_percent": 51}, {"lease_seconds": 1}, {"judgments_per_comparison": True}, {"name": ""}):
        assert client.patch("/api/v1/projects/tone", headers=engineer, json=body).status_code == 422
    assert client.post("/api/v1/projects", headers=engineer, json={"slug": "tone", "name": "Again"}).status_code == 409
    assert client.post("/api/v1/projects", headers=engineer, json={"slug": "new", "name": "New"}).status_code == 422


def test_engineers_see_comparisons_with_sources_and_votes(
    client: TestClient, factory: Factory, project: Project, engineer: dict[str, str]
) -> None:
    client.post("/api/v1/projects/tone/import", headers=engineer, content=waiting(3))
    factory.judge(project, factory.user(Role.EVALUATOR), "tie")
    listed = client.get("/api/v1/projects/tone/comparisons?state=judged", headers=engineer).json()
    assert (
        listed["total"] == 1
        and listed["items"][0]["votes"] == {"tie": 1}
        and listed["items"][0]["first"]["source_name"] == "secret-model"
    )
    with read_session(factory.engine) as session:
        assert listed["items"][0]["id"] == session.scalar(
            select(Comparison.id).where(Comparison.external_id == listed["items"][0]["external_id"])
        )
