"""Exports on a checkpoint's page, and their downloads."""

import hashlib
import html
import io
import re
import tarfile
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import Checkpoint, Role, User
from app.services.training import base_models
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.exported import FILES, exported, exporter, wanted
from tests.services.training.trained import trained

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def checkpoint(engine: Engine, settings: Settings, factory: Factory, engineer: User) -> Checkpoint:
    prepare_model(settings)
    return trained(engine, settings, factory.judged(8), engineer)[1]


@pytest.fixture
def page(
    client: TestClient, sign_in: Callable[[User], TestClient], engineer: User, checkpoint: Checkpoint
) -> Callable[[], str]:
    sign_in(engineer)

    def read() -> str:
        reply = client.get(f"/checkpoints/{checkpoint.id}")
        assert reply.status_code == 200
        return html.unescape(
            re.sub(
                r"\s+", " ", re.sub(r"<[^>]+>", " ", reply.text.partition('id="exports"')[2].partition("load-title")[0])
            )
        )

    return read


def test_each_format_can_be_asked_for_and_a_second_click_finds_the_first(
    client: TestClient, page: Callable[[], str], checkpoint: Checkpoint
) -> None:
    assert page().count(" Export ") == 3, "a button a format"
    replies = [
        client.post(f"/checkpoints/{checkpoint.id}/exports", data={"format": "gguf-q8_0"}, headers=SAME_SITE)
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [303, 303]
    assert replies[0].headers["location"] == f"/checkpoints/{checkpoint.id}#exports"
    shown = page()
    assert shown.count(" Export ") == 2 and shown.count("Waiting for a worker") == 1
    assert "queued" in shown and "Cancel" in shown


def test_the_page_loads_the_exports_again_while_one_is_under_way(
    client: TestClient,
    page: Callable[[], str],
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    address = f"/checkpoints/{checkpoint.id}"
    page()
    assert f'hx-get="{address}"' not in client.get(address).text
    wanted(engine, checkpoint, engineer)
    worker = exporter(engine, settings)
    worker.claim()
    worker.say(("state", 30, {"stage": "writing", "total_steps": 100}), ("step", 45, {"total_steps": 100}))
    fragment = client.get(address, headers={"HX-Request": "true"}).text
    assert f'hx-get="{address}"' in fragment and "<h1" not in fragment
    assert "Writing the files" in fragment and "45 %" in fragment and 'value="45" max="100"' in fragment


def test_a_finished_export_lists_its_files_and_what_was_compared(
    page: Callable[[], str], engine: Engine, settings: Settings, checkpoint: Checkpoint, engineer: User
) -> None:
    exported(engine, settings, checkpoint, engineer)
    shown = page()
    assert all(name in shown for name in FILES)
    assert "Compared with the trained model: 2 checks held" in shown
    assert "All 6 prompts become the same tokens." in shown and "Within 0.036 nats on average." in shown
    assert "llama.cpp isn't installed: its tokenizer was not compared." in shown
    assert "training moved a token's log-probability by 0.21 nats on average" in shown
    assert "Ollama's ChatML template renders the same text." in shown


def test_a_failed_export_says_why_and_can_be_tried_again(
    client: TestClient,
    page: Callable[[], str],
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    export = wanted(engine, checkpoint, engineer)
    worker = exporter(engine, settings)
    worker.claim()
    worker.fail("export_differs", "The export isn't the trained model: 0.3 nats.")
    shown = page()
    assert "The export isn't the trained model: 0.3 nats." in shown and "Try again" in shown
    job = html.unescape(client.get(f"/jobs/{export.job_id}").text)
    assert f"GGUF, 8 bits (q8_0) of checkpoint {checkpoint.id}" in job and "Nothing was published." in job
    client.post(f"/checkpoints/{checkpoint.id}/exports", data={"format": "gguf-q8_0"}, headers=SAME_SITE)
    assert "Waiting for a worker" in page()


def test_an_export_that_is_cancelled_promises_to_keep_nothing(
    client: TestClient,
    page: Callable[[], str],
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    export = wanted(engine, checkpoint, engineer)
    exporter(engine, settings).claim()
    page()
    assert client.post(f"/jobs/{export.job_id}/cancel", headers=SAME_SITE).status_code == 303
    job = html.unescape(client.get(f"/jobs/{export.job_id}").text)
    assert "Cancelling" in job and "cancelled the export; its worker is told to stop." in job
    assert "saving its state" not in job and "saves its state" not in job


def test_a_format_that_the_model_can_not_have_is_refused_with_its_reason(
    client: TestClient, page: Callable[[], str], settings: Settings, checkpoint: Checkpoint
) -> None:
    folder = base_models.path(settings, "tiny")
    (folder / "config.json").write_text('{"model_type": "gemma"}')
    (folder / "tokenizer.json").write_text("{}")
    shown = page()
    assert shown.count("Not for this model. GGUF is written for models of the types") == 2
    assert shown.count(" Export ") == 1
    reply = client.post(f"/checkpoints/{checkpoint.id}/exports", data={"format": "gguf-f16"}, headers=SAME_SITE)
    assert reply.status_code == 303
    assert "this one is of type gemma" in html.unescape(client.get(reply.headers["location"]).text)
    assert page().count("Waiting") == 0


def test_files_of_an_export_resume_and_name_their_hash(
    client: TestClient,
    page: Callable[[], str],
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    exported(engine, settings, checkpoint, engineer)
    page()
    address = f"/checkpoints/{checkpoint.id}/exports/gguf-q8_0"
    file = f"{address}/files/model-q8_0.gguf"
    whole = client.get(file)
    sha256 = hashlib.sha256(FILES["model-q8_0.gguf"]).hexdigest()
    assert (whole.content, whole.headers["X-Content-SHA256"]) == (FILES["model-q8_0.gguf"], sha256)
    assert whole.headers["ETag"] == f'"{sha256}"'
    part = client.get(file, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, b"GGUFGGUF")
    assert client.get(file, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    assert client.head(file).headers["Content-Length"] == str(len(FILES["model-q8_0.gguf"]))
    archive = client.get(f"{address}/archive.tar")
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        names = tar.getnames()
    assert names == [f"{names[0].partition('/')[0]}/{name}" for name in FILES]
    assert names[0].startswith("project-") and f"-checkpoint-{checkpoint.id}-gguf-q8_0/" in names[0]
    assert client.get(f"{address}/files/other").status_code == 404
    assert client.get(f"/checkpoints/{checkpoint.id}/exports/merged/archive.tar").status_code == 404


def test_evaluators_neither_ask_for_exports_nor_download_them(
    client: TestClient,
    sign_in: Callable[[User], TestClient],
    engine: Engine,
    settings: Settings,
    factory: Factory,
    checkpoint: Checkpoint,
    engineer: User,
) -> None:
    exported(engine, settings, checkpoint, engineer)
    sign_in(factory.user(Role.EVALUATOR))
    address = f"/checkpoints/{checkpoint.id}/exports"
    assert client.post(address, data={"format": "merged"}, headers=SAME_SITE).status_code == 403
    assert client.get(f"{address}/gguf-q8_0/archive.tar").status_code == 403
    assert client.get(f"{address}/gguf-q8_0/files/Modelfile").status_code == 403
