"""The page of endpoints, for admins."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings, get_settings
from app.db import read_session
from app.models import User
from app.services.loop import endpoints
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}
FORM = {"name": "vllm", "base_url": "http://127.0.0.1:8080/v1", "model": "m", "api_key": "sesame", "at_once": "2"}


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


def test_an_admin_changes_a_server(
    engine: Engine, page: TestClient, api: Callable[[User], dict[str, str]], factory: Factory
) -> None:
    page.post("/endpoints", data=FORM, headers=OWN)
    with read_session(engine) as session:
        (row,) = endpoints.listing(session)
    form = page.get(f"/endpoints/{row.id}").text
    assert "Change vllm" in form and 'value="2"' in form and "sesame" not in form
    changed = FORM | {"api_key": "", "model": "m2"}
    assert page.post(f"/endpoints/{row.id}", data=changed, headers=OWN).status_code == 303
    refused = page.post(f"/endpoints/{row.id}", data=changed | {"at_once": "many"}, headers=OWN)
    assert refused.status_code == 422 and "a whole number" in refused.text and "Change vllm" in refused.text
    told = api(factory.admin())
    body = {"name": "vllm", "base_url": FORM["base_url"], "model": "m3", "at_once": 9}
    reply = page.put(f"/api/v1/endpoints/{row.id}", json=body, headers=told).json()
    assert (reply["model"], reply["at_once"], reply["has_key"]) == ("m3", 9, True)
    assert (
        page.put(f"/api/v1/endpoints/{row.id}", json=body | {"drop_key": True}, headers=told).json()["has_key"] is False
    )
    assert page.put("/api/v1/endpoints/99", json=body, headers=told).status_code == 404
    line = ["endpoints", "change", "vllm", "--model", "m4", "--a-minute", "30"]
    assert "was changed" in CliRunner().invoke(cli, line).output
    with read_session(engine) as session:
        (row,) = endpoints.listing(session)
    assert (row.model, row.requests_per_minute, row.at_once) == ("m4", 30, 9)


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


def test_a_key_that_is_sent_after_the_session_ended_is_on_no_page(client: TestClient) -> None:
    reply = client.post("/endpoints", data=FORM, headers={"Sec-Fetch-Site": "same-origin"})
    assert "sesame" not in reply.text
