"""The lines that load a downloaded checkpoint: Python, and right for what was trained."""

import shutil

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.services.training import checkpoints, loading
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.trained import trained

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FULL = {"model.safetensors": b"weights", "config.json": b"{}", "prefloop.json": b"{}"}


def lines_for(
    engine: Engine,
    settings: Settings,
    factory: Factory,
    files: dict[str, bytes] | None = None,
    *,
    base_is_gone: bool = False,
) -> str:
    _, checkpoint = trained(engine, settings, factory.judged(8, eval_percent=0), factory.engineer(), files)
    if base_is_gone:
        shutil.rmtree(settings.models / "tiny")
    with read_session(engine) as session:
        snippet = loading.snippet(
            checkpoints.get(session, checkpoint.id), folder="tone-checkpoint-1", settings=settings
        )
    compile(snippet, "snippet", "exec")
    assert "AutoTokenizer.from_pretrained('tone-checkpoint-1')" in snippet
    return snippet


def test_an_adapter_is_put_onto_the_base_model_of_this_machine(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    prepare_model(settings)
    snippet = lines_for(engine, settings, factory)
    assert f"base = AutoModelForCausalLM.from_pretrained('{settings.models / 'tiny'}')" in snippet
    assert "PeftModel.from_pretrained(base, 'tone-checkpoint-1')" in snippet


def test_an_adapter_on_a_hub_model_names_the_commit_that_was_trained_on(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    prepare_model(settings, source={"kind": "hub", "id": "example/tiny", "commit": "c" * 40})
    snippet = lines_for(engine, settings, factory)
    assert f"from_pretrained('example/tiny', revision='{'c' * 40}')" in snippet


def test_an_adapter_whose_base_model_is_gone_says_what_to_fill_in(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    snippet = lines_for(engine, settings, factory, base_is_gone=True)
    assert "from_pretrained('PATH_OF_TINY')" in snippet
    assert "which is no longer on this server" in snippet


def test_a_whole_model_needs_no_base(engine: Engine, settings: Settings, factory: Factory) -> None:
    prepare_model(settings)
    snippet = lines_for(engine, settings, factory, FULL)
    assert "model = AutoModelForCausalLM.from_pretrained('tone-checkpoint-1')" in snippet
    assert "peft" not in snippet
    assert str(settings.models) not in snippet
