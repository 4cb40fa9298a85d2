"""A tiny base model and real workers for the tests of the job path."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import Settings
from tests.worker.running import Watcher, Workers


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one prepared base model named `tiny`: a Llama of two layers with random weights."""
    from app.services.training import base_models
    from tests.worker.dpo.tiny import save_tiny

    folder = tmp_path_factory.mktemp("models")
    source = save_tiny(tmp_path_factory.mktemp("tiny"))
    base_models.add(Settings(models_dir=folder, _env_file=None), "tiny", str(source))
    return folder


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    folder = tmp_path / "worker-logs"
    folder.mkdir()
    started = Workers(folder)
    yield started
    started.end()


@pytest.fixture
def watcher(engine: Engine, workers: Workers) -> Watcher:
    return Watcher(engine, workers)
