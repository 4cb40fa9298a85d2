"""Generations and endpoints over the API."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings, get_settings
from app.db import write_session
from app.models import Finish, User
from app.services.loop import generations
from app.services.loop.generating import answers
from app.services.loop.generating.answers import Arrived
from tests.factory import Factory

Api = Callable[[User], dict[str, str]]
ASKED = {"sources": ["base:tiny"], "samples": 2, "pairing": "round_robin", "limit": 3}


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", "127.0.0.1:8080")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def engineer(factory: Factory, tiny: str) -> User:
    engineer = factory.engineer()
    factory.comparisons(factory.project(slug="tone"), 4)
    return engineer


def test_a_generation_is_estimated_started_and_read(
    client: TestClient, engine: Engine, engineer: User, api: Api
) -> None:
    token = api(engineer)
    cost = client.post("/api/v1/projects/tone/generations/estimate", json=ASKED, headers=token)
    assert (cost.status_code, cost.json()["answers"], cost.json()["unmeasured"]) == (200, 6, ["tiny"])
    made = [
        client.post("/api/v1/projects/tone/generations", json=ASKED, headers=token | {"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert [reply.status_code for reply in made] == [201, 201]
    told = made[0].json()
    assert made[1].json()["id"] == told["id"]
    assert (told["kind"], told["state"], told["prompts"]) == (
        "generation",
        "queued",
        {"of": "project", "limit": 3, "count": 3},
    )
    number = told["id"]
    assert told["arms"] == {}
    for change in ({"samples": 3}, {"arms": {"random": 0.5, "diversity": 0.5}}):
        again = ASKED | change
        other = client.post("/api/v1/projects/tone/generations", json=again, headers=token | {"Idempotency-Key": "k"})
        assert other.status_code == 409
    shares = {"arms": {"random": 0.25, "disagreement": 0.75}, "keep": 0.4}
    by_arms = client.post("/api/v1/projects/tone/generations", json=ASKED | shares, headers=token).json()
    assert by_arms["arms"] == {"shares": shares["arms"], "keep": 0.4}
    with write_session(engine) as session:
        ids = generations.prompt_ids(generations.get(session, number))
        answers.store(session, job_id=number, arrived=[Arrived(ids[0], 0, 0, 5, "Aye.", Finish.STOP, 2, 3)])
    page = client.get(f"/api/v1/generations/{number}/answers", headers=token).json()
    assert (page["total"], page["items"][0]["text"], page["items"][0]["seed"]) == (1, "Aye.", 5)
    assert page["items"][0]["prompt"][0]["role"] == "user"
    assert client.get("/api/v1/projects/tone/generations", headers=token).json()["total"] == 2
    assert client.get(f"/api/v1/jobs/{number}", headers=token).json()["kind"] == "generation"
    assert client.post(f"/api/v1/jobs/{number}/cancel", headers=token).json()["state"] == "cancelled"
    assert client.get(f"/api/v1/generations/{number}", headers=token).json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"sources": ["base:missing"]}, 422),
        ({"sources": ["nonsense:x"]}, 422),
        ({"sources": []}, 422),
        ({"samples": 0}, 422),
        ({"sampling": {"temperature": 9}}, 422),
        ({"prompts": [" "]}, 422),
        ({"prompts": [[{"role": "robot", "content": "x"}]]}, 422),
        ({"prompts_from": "import", "import_id": 99}, 422),
        ({"sources": ["checkpoint:99"]}, 404),
        ({"sources": ["endpoint:none"]}, 404),
        ({"unknown": 1}, 422),
        ({"arms": {"luck": 1}}, 422),
        ({"arms": {"random": 0.1, "diversity": 0.9}}, 422),
        ({"arms": {"random": 0.5, "margin": 0.5}}, 422),
        ({"arms": {"random": 0.5, "diversity": 0.5}, "pairing": "none"}, 422),
        ({"keep": 2}, 422),
    ],
)
def test_what_cannot_be_is_refused(
    client: TestClient, engineer: User, api: Api, change: dict[str, object], status: int
) -> None:
    reply = client.post("/api/v1/projects/tone/generations", json=ASKED | change, headers=api(engineer))
    assert reply.status_code == status
    assert "next_step" in reply.json() or status == 422


def test_admins_add_endpoints_and_nobody_reads_their_keys(client: TestClient, factory: Factory, api: Api) -> None:
    token = api(factory.admin())
    asked = {"name": "vllm", "base_url": "http://127.0.0.1:8080/v1", "model": "m", "key": "sesame"}
    made = client.post("/api/v1/endpoints", json=asked, headers=token)
    assert (made.status_code, made.json()["has_key"]) == (201, True)
    assert client.post("/api/v1/endpoints", json=asked, headers=token).status_code == 409
    refused = client.post("/api/v1/endpoints", json=asked | {"base_url": "http://elsewhere:1/v1"}, headers=token)
    assert (refused.status_code, refused.json()["code"]) == (422, "endpoint_refused")
    assert "PREFLOOP_ENDPOINT_HOSTS" in refused.json()["next_step"]
    listed = client.get("/api/v1/endpoints", headers=token)
    assert [one["name"] for one in listed.json()] == ["vllm"]
    assert "sesame" not in listed.text
    assert client.delete(f"/api/v1/endpoints/{listed.json()[0]['id']}", headers=token).status_code == 204
    assert client.get("/api/v1/endpoints", headers=token).json() == []
