"""A small model of its own for each test, and an empty folder for what is prepared."""

from pathlib import Path

import pytest

from tests.worker.dpo.tiny import save_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"
