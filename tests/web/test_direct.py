"""The desk's direct route reads forms, refuses and notes as every other route does."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, select, update
from starlette.testclient import TestClient

from app.db import read_session, write_session
from app.models import Judgment, User, UserSession
from app.web.direct import MOST_FIELDS
from tests.factory import Factory
from tests.routes.collecting.test_compare import judgments, token_of

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DESK = "/projects/tone/compare"
URLENCODED = {
    "Content-Type": "application/x-www-form-urlencoded",
    "HX-Request": "true",
    "Sec-Fetch-Site": "same-origin",
}


@pytest.fixture
def desk(factory: Factory, sign_in: Callable[[User], TestClient]) -> TestClient:
    project = factory.project(slug="tone")
    for _ in range(3):
        factory.comparison(project)
    client = sign_in(factory.user(username="eve"))
    client.headers["Sec-Fetch-Site"] = "same-origin"
    return client


def fields(desk: TestClient, **more: object) -> dict[str, object]:
    return {"token": token_of(desk.get(DESK).text), "choice": "left"} | more


@pytest.mark.parametrize("charset", ["", "; charset=UTF-8"])
def test_a_form_arrives_with_every_sign_and_every_flag(desk: TestClient, engine: Engine, charset: str) -> None:
    sent = fields(desk, rationale="Größer & besser: 1 + 1 = 2 %41 🦊", flags=["unsafe", "broken"], strength="")
    headers = URLENCODED | {"Content-Type": URLENCODED["Content-Type"] + charset}
    reply = desk.post(DESK, content=urlencode(sent, doseq=True), headers=headers)
    assert reply.status_code == 200
    (judgment,) = judgments(engine)
    assert judgment.rationale == "Größer & besser: 1 + 1 = 2 %41 🦊"
    assert judgment.flags == ["broken", "unsafe"]
    assert judgment.strength is None


def test_a_form_as_files_are_sent_is_read_too(desk: TestClient, engine: Engine) -> None:
    sent = {name: (None, str(value)) for name, value in fields(desk, rationale="Ärger").items()}
    assert desk.post(DESK, files=sent, headers={"HX-Request": "true"}).status_code == 200
    assert [judgment.rationale for judgment in judgments(engine)] == ["Ärger"]


def test_of_a_field_that_comes_twice_the_last_one_counts(desk: TestClient, engine: Engine) -> None:
    body = urlencode(fields(desk, choice=["left", "tie"]), doseq=True)
    assert desk.post(DESK, content=body, headers=URLENCODED).status_code == 200
    assert [judgment.choice.value for judgment in judgments(engine)] == ["tie"]


def test_a_field_of_the_wrong_kind_is_named(desk: TestClient, engine: Engine) -> None:
    headers = {"Accept": "application/json"}
    reply = desk.post(DESK, data=fields(desk, seen_guidelines="many"), headers=headers)
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["body.seen_guidelines"]
    assert judgments(engine) == []


def test_a_form_of_too_many_fields_is_refused(desk: TestClient, engine: Engine) -> None:
    body = urlencode(fields(desk)) + "&flags=broken" * MOST_FIELDS
    assert desk.post(DESK, content=body, headers=URLENCODED).status_code == 400
    assert judgments(engine) == []


def test_other_methods_of_the_address_are_named(desk: TestClient) -> None:
    reply = desk.delete(DESK)
    assert reply.status_code == 405
    assert {"GET", "POST"} <= set(reply.headers["allow"].split(", "))


def test_the_use_of_the_session_is_noted_after_the_reply(desk: TestClient, engine: Engine) -> None:
    sent = fields(desk)
    before = datetime.now(UTC)
    with write_session(engine) as session:
        session.execute(update(UserSession).values(last_used_at=before - timedelta(hours=1)))
    assert desk.post(DESK, data=sent).status_code == 303
    with read_session(engine) as session:
        assert session.scalars(select(UserSession.last_used_at)).one() >= before
        assert session.scalars(select(Judgment)).one()


def test_metrics_know_the_route_by_its_pattern(desk: TestClient) -> None:
    desk.post(DESK, data=fields(desk))
    told = desk.app.state.metrics.exposition()[0].decode()  # type: ignore[attr-defined]
    assert 'prefloop_requests_total{method="POST",route="/projects/{slug}/compare",status="303"} 1.0' in told
