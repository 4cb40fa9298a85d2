"""The API's frame and people by API, on both databases."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from app.db import read_session
from app.models import ApiToken, User
from tests.factory import Factory


@pytest.fixture
def admin(factory: Factory, api: Callable[[User], dict[str, str]]) -> dict[str, str]:
    return api(factory.user(username="boss", role=factory.admin().role))


def test_an_account_is_made_linked_changed_and_shut_out(client: TestClient, admin: dict[str, str]) -> None:
    made = client.post("/api/v1/users", json={"username": "Ada", "role": "engineer"}, headers=admin)
    assert made.status_code == 201
    assert (made.json()["username"], made.json()["role"], made.json()["active"]) == ("ada", "engineer", True)
    link = client.post("/api/v1/users/ada/link", headers=admin).json()
    assert link["url"].startswith("http://testserver/link/")
    assert client.get(link["url"], headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}).status_code == 303
    changed = client.patch("/api/v1/users/ada", json={"role": "admin", "active": False}, headers=admin).json()
    assert (changed["role"], changed["active"]) == ("admin", False)
    assert client.post("/api/v1/users/ada/link", headers=admin).status_code == 409
    assert client.get("/account").status_code == 303


def test_problems_say_what_where_and_what_next(client: TestClient, admin: dict[str, str]) -> None:
    client.post("/api/v1/users", json={"username": "ada"}, headers=admin)
    taken = client.post("/api/v1/users", json={"username": "ada"}, headers=admin)
    assert (taken.status_code, taken.headers["content-type"]) == (409, "application/problem+json")
    assert {"title", "status", "code", "detail", "next_step", "request_id"} <= set(taken.json())
    assert taken.json()["code"] == "conflict"
    wrong = client.post("/api/v1/users", json={"username": "x" * 65, "role": "root"}, headers=admin).json()
    assert {error["field"] for error in wrong["errors"]} == {"body.username", "body.role"}
    unknown = client.patch("/api/v1/users/nobody", json={}, headers=admin)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert client.get("/api/v1/nothing", headers=admin).json()["code"] == "not_found"
    not_allowed = client.delete("/api/v1/users", headers=admin)
    assert (not_allowed.status_code, not_allowed.json()["status"]) == (405, 405)
    assert not_allowed.headers["allow"] == "GET, POST"


def test_a_missing_wrong_or_revoked_token_is_refused(
    client: TestClient, factory: Factory, api: Callable[[User], dict[str, str]], engine: Engine
) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer plf_wrong"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer "},
    ):
        reply = client.get("/api/v1/me", headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"], reply.json()["code"]) == (
            401,
            "Bearer",
            "sign_in_needed",
        )
    header = api(factory.user())
    assert client.get("/api/v1/me", headers=header).status_code == 200
    with read_session(engine) as session:
        assert session.scalars(select(ApiToken.last_used_at)).one() is not None
    listed = client.get("/api/v1/tokens", headers=header).json()
    assert len(listed) == 1
    assert header["Authorization"].removeprefix("Bearer ").startswith(listed[0]["prefix"])
    assert client.delete(f"/api/v1/tokens/{listed[0]['id']}", headers=header).status_code == 204
    assert client.get("/api/v1/me", headers=header).status_code == 401


def test_the_trail_tells_what_the_api_did(client: TestClient, admin: dict[str, str]) -> None:
    client.post("/api/v1/invitations", json={"role": "evaluator", "note": "Grace"}, headers=admin)
    entries = client.get("/api/v1/audit", params={"action": "invitation", "username": "boss"}, headers=admin).json()
    assert (entries["total"], entries["items"][0]["target"]) == (1, "invitation as evaluator")
    assert entries["items"][0]["address"] == "testclient"
    assert client.get("/api/v1/audit", params={"page": 0}, headers=admin).status_code == 422


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_operation_documents_its_errors_as_problems(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in ("401", "403", "422"):
                content = operation["responses"][status]["content"]
                assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, (
                    f"{method} {path}"
                )
            assert operation["security"], f"{method} {path}"
            assert operation.get("description") or operation.get("summary"), f"{method} {path}"
