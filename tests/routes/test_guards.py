"""Who may go where: every route of the app, found by asking the app, so that a new one without a guard fails here."""

import re
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from app.models import User
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}
PUBLIC = {
    "/api/v1/openapi.json",
    "/static",
    "/healthz",
    "/readyz",
    "/metrics",
    "/theme",
    "/sign-in",
    "/sign-out",
    "/link/{token}",
    "/invitation/{token}",
}
EVERYBODY = {
    "GET /",
    "GET /menu/projects",
    "GET /projects",
    "GET /projects/{slug}",
    "GET /projects/{slug}/guidelines",
    "GET /projects/{slug}/compare",
    "POST /projects/{slug}/compare",
    "POST /projects/{slug}/compare/undo",
    "GET /projects/{slug}/history",
    "GET /account",
    "POST /account/password",
    "POST /account/sessions/{session_id}/revoke",
    "POST /account/sessions/revoke-others",
    "POST /account/tokens",
    "POST /account/tokens/{token_id}/revoke",
    "GET /api/v1/me",
    "GET /api/v1/tokens",
    "DELETE /api/v1/tokens/{token_id}",
    "GET /api/v1/projects",
    "GET /api/v1/projects/{slug}",
    "GET /api/v1/projects/{slug}/guidelines",
    "POST /api/v1/projects/{slug}/next",
    "POST /api/v1/projects/{slug}/undo",
    "POST /api/v1/release",
    "POST /api/v1/judgments",
    "GET /api/v1/projects/{slug}/progress",
    "GET /api/v1/projects/{slug}/judgments",
}
ADMINS_ONLY = re.compile(r"\w+ (/people|/audit|/workers|/api/v1/(users|invitations|audit))\b.*")


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(app.routes):
        for method in sorted(route.methods or {"GET"}):
            if route.path not in PUBLIC:
                yield method, str(route.path)


def ask(client: TestClient, method: str, path: str, slug: str, headers: dict[str, str]) -> int:
    address = path.replace("{slug}", slug)
    address = re.sub(r"\{\w+_id\}", "1", address)
    address = re.sub(r"\{\w+(:\w+)?\}", "x", address)
    return client.request(method, address, headers={**OWN, **headers}).status_code


@pytest.fixture
def slug(factory: Factory) -> str:
    return factory.project().slug


def test_strangers_get_nowhere(client: TestClient, slug: str) -> None:
    open_to_strangers = [
        f"{method} {path}: {status}"
        for method, path in routes(client.app)
        if (status := ask(client, method, path, slug, {})) != (401 if path.startswith("/api/") else 303)
    ]
    assert open_to_strangers == []


def test_evaluators_get_to_the_desk_and_their_account_only(
    client: TestClient,
    slug: str,
    factory: Factory,
    sign_in: Callable[[User], TestClient],
    api: Callable[[User], dict[str, str]],
) -> None:
    evaluator = factory.user()
    sign_in(evaluator)
    token = api(evaluator)
    open_to_evaluators = [
        f"{method} {path}: {status}"
        for method, path in routes(client.app)
        if f"{method} {path}" not in EVERYBODY and (status := ask(client, method, path, slug, token)) != 403
    ]
    assert open_to_evaluators == []


def test_engineers_get_to_all_but_the_admins_rooms(
    client: TestClient,
    slug: str,
    factory: Factory,
    sign_in: Callable[[User], TestClient],
    api: Callable[[User], dict[str, str]],
) -> None:
    engineer = factory.engineer()
    sign_in(engineer)
    token = api(engineer)
    for method, path in routes(client.app):
        if f"{method} {path}" not in EVERYBODY:
            refused = ask(client, method, path, slug, token) == 403
            assert refused == bool(ADMINS_ONLY.fullmatch(f"{method} {path}")), f"{method} {path}"


def test_the_list_of_what_everybody_may_use_is_tidy(client: TestClient, slug: str) -> None:
    assert EVERYBODY - {f"{method} {path}" for method, path in routes(client.app)} == set()


def test_a_token_opens_no_page_and_a_cookie_no_api(
    client: TestClient, factory: Factory, sign_in: Callable[[User], TestClient], api: Callable[[User], dict[str, str]]
) -> None:
    admin = factory.admin()
    assert client.get("/people", headers=api(admin)).status_code == 303
    sign_in(admin)
    assert client.get("/people").status_code == 200
    assert client.get("/api/v1/users").status_code == 401
    assert client.post("/api/v1/invitations", json={"role": "admin"}, headers=OWN).status_code == 401


def test_a_lost_role_is_gone_with_the_next_click(
    client: TestClient, factory: Factory, sign_in: Callable[[User], TestClient]
) -> None:
    boss, other = factory.admin(), factory.admin()
    sign_in(boss)
    assert client.post(f"/people/{boss.username}/role", data={"role": "evaluator"}, headers=OWN).status_code == 303
    assert client.get("/people").status_code == 403
    assert other.active
