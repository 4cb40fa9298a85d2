"""A project with a checkpoint that is evaluated."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from tests.factory import Factory
from tests.services.loop.evaluated import Evaluated


@pytest.fixture
def evaluated(engine: Engine, settings: Settings, factory: Factory) -> Evaluated:
    return Evaluated(engine, settings, factory)
