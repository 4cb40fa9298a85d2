"""Exports over the API."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import Checkpoint, Role, User
from app.services.training import base_models
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.exported import FILES, PROOF, exported
from tests.services.training.trained import trained


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def checkpoint(engine: Engine, settings: Settings, factory: Factory, engineer: User) -> Checkpoint:
    prepare_model(settings)
    return trained(engine, settings, factory.judged(8), engineer)[1]


def test_an_export_is_asked_for_once_and_found_by_its_job(
    client: TestClient, api: Callable[[User], dict[str, str]], checkpoint: Checkpoint, engineer: User
) -> None:
    token, address = api(engineer), f"/api/v1/checkpoints/{checkpoint.id}/exports"
    first = client.post(address, json={"format": "merged"}, headers=token)
    assert first.status_code == 201, first.text
    made = first.json()
    assert (made["format"], made["state"], made["files"], made["proof"]) == ("merged", "queued", [], {})
    assert client.post(address, json={"format": "merged"}, headers=token).json()["job_id"] == made["job_id"]
    job = client.get(f"/api/v1/jobs/{made['job_id']}", headers=token).json()
    assert (job["kind"], job["started_by"]) == ("export", engineer.username)
    listed = client.get("/api/v1/jobs?kind=export", headers=token).json()["items"]
    assert [one["id"] for one in listed] == [made["job_id"]]
    assert made["job_id"] not in [one["id"] for one in client.get("/api/v1/jobs", headers=token).json()["items"]]
    cancelled = client.post(f"/api/v1/jobs/{made['job_id']}/cancel", headers=token).json()
    assert cancelled["state"] == "cancelled"
    again = client.post(address, json={"format": "merged"}, headers=token).json()
    assert (again["job_id"], again["state"]) == (made["job_id"], "queued")


def test_a_finished_export_comes_with_files_and_proof(
    client: TestClient,
    api: Callable[[User], dict[str, str]],
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    exported(engine, settings, checkpoint, engineer)
    token, address = api(engineer), f"/api/v1/checkpoints/{checkpoint.id}/exports"
    told = client.get(address, headers=token).json()
    (item,) = told["items"]
    assert told["refused"] == {}
    assert (item["state"], item["proof"]) == ("succeeded", PROOF)
    assert {file["name"]: file["size"] for file in item["files"]} == {name: len(data) for name, data in FILES.items()}
    reply = client.get(f"{address}/gguf-q8_0/files/Modelfile", headers=token | {"Range": "bytes=0-3"})
    assert (reply.status_code, reply.content) == (206, b"FROM")
    assert client.get(f"{address}/gguf-q8_0/archive.tar", headers=token).content.startswith(b"project-")


def test_what_can_not_be_exported_is_told_before_anything_is_queued(
    client: TestClient,
    api: Callable[[User], dict[str, str]],
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    folder = base_models.path(settings, "tiny")
    (folder / "config.json").write_text('{"model_type": "gemma"}')
    (folder / "tokenizer.json").write_text("{}")
    token, address = api(engineer), f"/api/v1/checkpoints/{checkpoint.id}/exports"
    assert set(client.get(address, headers=token).json()["refused"]) == {"gguf-f16", "gguf-q8_0"}
    reply = client.post(address, json={"format": "gguf-f16"}, headers=token)
    assert reply.status_code == 422 and "of type gemma" in reply.text
    assert client.post(address, json={"format": "exe"}, headers=token).status_code == 422
    assert client.post("/api/v1/checkpoints/4711/exports", json={"format": "merged"}, headers=token).status_code == 404
    assert client.get(address, headers=token).json()["items"] == []


def test_an_evaluator_s_token_is_refused(
    client: TestClient, api: Callable[[User], dict[str, str]], factory: Factory, checkpoint: Checkpoint
) -> None:
    token, address = api(factory.user(Role.EVALUATOR)), f"/api/v1/checkpoints/{checkpoint.id}/exports"
    assert client.get(address, headers=token).status_code == 403
    assert client.post(address, json={"format": "merged"}, headers=token).status_code == 403
