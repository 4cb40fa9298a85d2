"""The page of endpoints, for admins."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings, get_settings
from app.db import read_session
from app.models import User
from app.services.loop import endpoints
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}
FORM = {"name": "vllm", "base_url": "http://127.0.0.1:8080/v1", "model": "m", "key": "sesame", "at_once": "2"}


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", "127.0.0.1:8080")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def page(sign_in: Callable[[User], TestClient], factory: Factory) -> TestClient:
    return sign_in(factory.admin())


def test_an_admin_adds_and_removes_a_server(engine: Engine, page: TestClient) -> None:
    assert "No endpoints yet" in page.get("/endpoints").text
    assert page.post("/endpoints", data=FORM, headers=OWN).status_code == 303
    shown = page.get("/endpoints").text
    assert "http://127.0.0.1:8080/v1" in shown
    assert "sesame" not in shown
    with read_session(engine) as session:
        (row,) = endpoints.listing(session)
    assert page.post(f"/endpoints/{row.id}/remove", headers=OWN).status_code == 303
    assert "No endpoints yet" in page.get("/endpoints").text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_url": "http://127.0.0.1:9/v1"}, "PREFLOOP_ENDPOINT_HOSTS"),
        ({"at_once": "few"}, "a whole number"),
        ({"price_prompt": "1"}, "A price needs its currency"),
        ({"requests_per_minute": "inf"}, "Choose"),
        ({"at_once": "nan"}, "Choose"),
    ],
)
def test_what_is_wrong_is_said_and_no_key_comes_back(page: TestClient, change: dict[str, str], words: str) -> None:
    reply = page.post("/endpoints", data=FORM | change, headers=OWN)
    assert reply.status_code == 422
    assert words in reply.text
    assert "sesame" not in reply.text
