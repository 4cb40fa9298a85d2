"""The page of a checkpoint and its downloads."""

import hashlib
import html
import io
import re
import shutil
import tarfile
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import Project, User
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.trained import trained

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FULL = {
    "model.safetensors": b"weights" * 500,
    "config.json": b"{}",
    "prefloop.json": b"{}",
    "README.md": b"# Whole model\n",
}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], engineer: User) -> TestClient:
    return sign_in(engineer)


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.judged(8, eval_percent=0)


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_page_tells_the_whole_chain(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    prepare_model(settings)
    run, checkpoint = trained(engine, settings, project, engineer)
    page = browser.get(f"/checkpoints/{checkpoint.id}").text
    shown = words(page)
    assert f"From snapshot 1 (SHA-256 {run.snapshot.sha256[:8]}…" in shown
    assert f"by run {run.job_id} on tiny, started by {engineer.display_name}" in shown
    assert run.snapshot.sha256 in page and "b7" * 32 in page
    assert "Weights dequantised from a 4-bit (Q4_1) file." in shown
    assert "torch 2.13.0" in shown and "Seed 42" in shown
    assert "eval pairs as people did" in shown
    assert "Reward margin 0" in shown


def test_every_file_is_listed_and_downloads_with_its_hash(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    prepare_model(settings)
    _, checkpoint = trained(engine, settings, project, engineer, FULL | {"runs/events.out.tfevents.1": b"curves"})
    page = browser.get(f"/checkpoints/{checkpoint.id}").text
    for name, content in FULL.items():
        address = f"/checkpoints/{checkpoint.id}/files/{name}"
        assert f'href="{address}"' in page and hashlib.sha256(content).hexdigest() in page
        assert browser.get(address).content == content
    weights = f"/checkpoints/{checkpoint.id}/files/model.safetensors"
    assert browser.get(weights, headers={"Range": "bytes=7-"}).content == FULL["model.safetensors"][7:]
    assert browser.head(weights).headers["content-length"] == "3500"
    assert browser.get(re.search(r'href="([^"]+tfevents[^"]+)"', page)[1]).content == b"curves"


def test_the_archive_holds_every_file_in_one_folder(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    prepare_model(settings)
    _, checkpoint = trained(engine, settings, project, engineer, FULL)
    page = browser.get(f"/checkpoints/{checkpoint.id}").text
    address = f"/checkpoints/{checkpoint.id}/archive.tar"
    assert f'href="{address}"' in page
    with tarfile.open(fileobj=io.BytesIO(browser.get(address).content)) as archive:
        folder = f"{project.slug}-checkpoint-{checkpoint.id}"
        assert {name: archive.extractfile(f"{folder}/{name}").read() for name in FULL} == FULL


def test_the_snippet_of_an_adapter_names_its_base_and_is_python(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    prepare_model(settings)
    _, checkpoint = trained(engine, settings, project, engineer)
    snippet = html.unescape(
        re.search(r'data-copy="(from [^"]+)"', browser.get(f"/checkpoints/{checkpoint.id}").text)[1]
    )
    compile(snippet, "snippet", "exec")
    assert "PeftModel" in snippet and str(settings.models / "tiny") in snippet
    assert f"{project.slug}-checkpoint-{checkpoint.id}" in snippet


def test_the_page_still_works_when_base_model_and_card_are_gone(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w", "prefloop.json": b"{}"}
    _, checkpoint = trained(engine, settings, project, engineer, files)
    shutil.rmtree(settings.models / "tiny")
    page = browser.get(f"/checkpoints/{checkpoint.id}")
    assert page.status_code == 200
    assert "PATH_OF_TINY" in page.text and "Model card" not in page.text


def test_the_card_is_rendered_without_its_head_and_without_scripts(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    card = b"---\nlicense: apache-2.0\n---\n\n# A card\n\n<script>alert(1)</script>\n"
    _, checkpoint = trained(engine, settings, project, engineer, FULL | {"README.md": card})
    page = browser.get(f"/checkpoints/{checkpoint.id}").text
    assert "A card" in page and "<script>alert" not in page and "license: apache-2.0" not in page


def test_the_list_shows_what_there_is_and_what_to_do_when_there_is_nothing(
    browser: TestClient, engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    assert "No checkpoints yet" in browser.get(f"/projects/{project.slug}/checkpoints").text
    _, checkpoint = trained(engine, settings, project, engineer)
    page = browser.get(f"/projects/{project.slug}/checkpoints").text
    assert f'href="/checkpoints/{checkpoint.id}"' in page and "of 24" in words(page)
