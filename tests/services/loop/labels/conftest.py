"""A run whose labels are checked."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import Settings
from tests.factory import Factory
from tests.services.loop.labels.checked import Checked


@pytest.fixture
def checked(engine: Engine, settings: Settings, factory: Factory, tmp_path: Path) -> Checked:
    return Checked(engine, settings, factory, tmp_path)
