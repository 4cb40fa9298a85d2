"""A project with a checkpoint that is evaluated, and its engineer's browser."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.models import User
from tests.factory import Factory
from tests.services.loop.evaluated import Evaluated


@pytest.fixture
def evaluated(engine: Engine, settings: Settings, factory: Factory) -> Evaluated:
    return Evaluated(engine, settings, factory)


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], evaluated: Evaluated) -> TestClient:
    return sign_in(evaluated.engineer)
