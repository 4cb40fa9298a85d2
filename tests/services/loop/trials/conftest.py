"""A project whose arms can be tried."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from tests.factory import Factory
from tests.services.loop.trials.tried import Tried


@pytest.fixture
def tried(engine: Engine, settings: Settings, factory: Factory) -> Tried:
    return Tried(engine, settings, factory)
