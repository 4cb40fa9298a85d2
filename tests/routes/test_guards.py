"""Who may go where: every route of the app, found by asking the app, so that a new one without a guard fails here."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.models import Container, Evaluation, ExclusionKind, ExtractForm, Project, ProjectRole, Role, User
from app.services.accounts import access, members, tokens
from app.services.collecting import exclusions
from app.services.collecting.imports import load
from app.services.datasets.extracts import extracts
from tests.factory import Factory
from tests.services.training.trained import trained

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
    "/sign-in/code",
    "/sign-in/passkey",
    "/sign-in/passkey/options",
    "/sign-out",
    "/link/{token}",
    "/invitation/{token}",
}
# What belongs to no project, or to those that the caller may see.
ANYBODY = {
    "GET /",
    "GET /menu/projects",
    "GET /projects",
    "GET /account",
    "POST /account/password",
    "POST /account/second-factor",
    "POST /account/second-factor/confirm",
    "POST /account/second-factor/codes",
    "POST /account/second-factor/remove",
    "POST /account/passkeys",
    "POST /account/passkeys/options",
    "POST /account/passkeys/{passkey_id}/remove",
    "POST /account/sessions/{session_id}/revoke",
    "POST /account/sessions/revoke-others",
    "POST /account/tokens",
    "POST /account/tokens/{token_id}/revoke",
    "GET /api/v1/me",
    "GET /api/v1/tokens",
    "DELETE /api/v1/tokens/{token_id}",
    "GET /api/v1/projects",
    "POST /api/v1/release",
    "POST /api/v1/judgments",
    "GET /api/v1/jobs",
    "POST /api/v1/jobs",
    "GET /api/v1/checkpoints",
}
# Of those, what a token of some projects reaches.
NARROWED = {
    "GET /api/v1/me",
    "GET /api/v1/projects",
    "POST /api/v1/release",
    "POST /api/v1/judgments",
    "GET /api/v1/jobs",
    "POST /api/v1/jobs",
    "GET /api/v1/checkpoints",
}
MAKERS_ONLY = {"GET /projects/new", "POST /projects/new", "POST /api/v1/projects", "GET /api/v1/workers"}
ADMINS_ONLY = re.compile(
    r"\w+ (/people|/audit|/workers|/storage|/endpoints|/api/v1/(storage|users|invitations|audit|endpoints))\b.*"
)
# What belongs to a project: a member who is less than an engineer reaches only this.
EVALUATORS = {
    "GET /projects/{slug}",
    "GET /projects/{slug}/guidelines",
    "GET /projects/{slug}/compare",
    "POST /projects/{slug}/compare",
    "POST /projects/{slug}/compare/undo",
    "GET /projects/{slug}/history",
    "GET /projects/{slug}/guess",
    "POST /projects/{slug}/guess",
    "GET /api/v1/projects/{slug}/guesses/next",
    "POST /api/v1/projects/{slug}/guesses",
    "GET /api/v1/projects/{slug}",
    "GET /api/v1/projects/{slug}/guidelines",
    "POST /api/v1/projects/{slug}/next",
    "POST /api/v1/projects/{slug}/undo",
    "GET /api/v1/projects/{slug}/progress",
    "GET /api/v1/projects/{slug}/judgments",
}
LEADS = {
    "GET /projects/{slug}/settings",
    "POST /projects/{slug}/settings",
    "GET /projects/{slug}/members",
    "POST /projects/{slug}/members",
    "POST /projects/{slug}/members/{username}/role",
    "POST /projects/{slug}/members/{username}/remove",
    "POST /projects/{slug}/guidelines",
    "POST /projects/{slug}/guidelines/preview",
    "GET /projects/{slug}/data",
    "GET /comparisons/{comparison_id}",
    "GET /projects/{slug}/evaluations",
    "GET /projects/{slug}/evaluations/{number}",
    "GET /projects/{slug}/evaluations/{number}/batch",
    "GET /api/v1/projects/{slug}/evaluations",
    "GET /api/v1/evaluations/{evaluation_id}",
    "GET /projects/{slug}/progress",
    "GET /api/v1/projects/{slug}/standings",
    "GET /api/v1/evaluations/{evaluation_id}/verdict",
    "GET /projects/{slug}/import",
    "POST /projects/{slug}/import",
    "GET /imports/{import_id}",
    "POST /imports/{import_id}/columns",
    "POST /imports/{import_id}/start",
    "POST /imports/{import_id}/discard",
    "POST /imports/{import_id}/stop",
    "POST /imports/{import_id}/undo",
    "GET /projects/{slug}/exclusions",
    "POST /projects/{slug}/exclusions",
    "POST /exclusions/{exclusion_id}/lift",
    "GET /api/v1/comparisons/{comparison_id}/lineage",
    "GET /api/v1/snapshots/{snapshot_id}/lineage",
    "GET /snapshots/{snapshot_id}",
    "POST /projects/{slug}/snapshots",
    "GET /projects/{slug}/freezings/{number}",
    "PATCH /api/v1/projects/{slug}",
    "GET /api/v1/projects/{slug}/members",
    "PUT /api/v1/projects/{slug}/members/{username}",
    "DELETE /api/v1/projects/{slug}/members/{username}",
    "PUT /api/v1/projects/{slug}/guidelines",
    "GET /api/v1/projects/{slug}/comparisons",
    "POST /api/v1/projects/{slug}/import",
    "GET /api/v1/projects/{slug}/imports",
    "GET /api/v1/imports/{import_id}",
    "POST /api/v1/imports/{import_id}/stop",
    "POST /api/v1/imports/{import_id}/undo",
    "GET /api/v1/projects/{slug}/exclusions",
    "POST /api/v1/projects/{slug}/exclusions",
    "GET /api/v1/exclusions/{exclusion_id}",
    "POST /api/v1/exclusions/{exclusion_id}/lift",
    "GET /api/v1/projects/{slug}/preview",
    "POST /api/v1/projects/{slug}/preview",
    "GET /api/v1/projects/{slug}/snapshots",
    "POST /api/v1/projects/{slug}/snapshots",
    "GET /api/v1/snapshots/{snapshot_id}",
}
# What an address holds beside the values that lead to a project: parts of such a thing, and what belongs to an account.
PARTS = {"name", "format", "username", "number"}
OF_ACCOUNTS = {"session_id", "token_id", "passkey_id", "link_id", "username", "endpoint_id"}


@dataclass(frozen=True)
class World:
    """A project that only its members see, and something of every kind in it: `values` are for addresses."""

    project: Project
    values: dict[str, str]


@pytest.fixture
def world(engine: Engine, settings: Settings, factory: Factory) -> World:
    maker = factory.engineer()
    project = factory.project(by=maker, slug="unseen", open_to_everybody=False)
    factory.comparisons(project, 4)
    for _ in range(4):
        factory.judge(project, maker)
    row = load.load(
        engine,
        project_id=project.id,
        user_id=maker.id,
        stream=io.BytesIO(b'{"prompt": "Q?", "responses": ["Aye.", "No."]}\n'),
        filename="pairs.jsonl",
        settings=settings,
    )
    run, checkpoint = trained(engine, settings, project, maker)
    with write_session(engine) as session:
        extract = extracts.create(
            session,
            project=session.merge(project),
            by=session.merge(maker),
            form=ExtractForm.OWN,
            container=Container.JSONL,
            snapshot=None,
            split=None,
        )
        evaluation = Evaluation(
            project_id=project.id,
            number=1,
            checkpoint_id=checkpoint.id,
            opponent_model="tiny",
            goal="superiority",
            margin=0.05,
            maximum=10,
            prompts={},
            sampling={},
            seed=1,
            plan_sha256="ab" * 32,
        )
        session.add(evaluation)
        exclusion = exclusions.exclude(
            session,
            project=session.merge(project),
            kind=ExclusionKind.PAIR,
            subject_id=1,
            by=session.merge(maker),
        )
    values = {
        "slug": project.slug,
        "evaluation_id": str(evaluation.id),
        "number": "1",
        "comparison_id": "1",
        "import_id": str(row.id),
        "extract_id": str(extract.id),
        "exclusion_id": str(exclusion.id),
        "snapshot_id": str(run.snapshot_id),
        "job_id": str(run.job_id),
        "checkpoint_id": str(checkpoint.id),
    }
    assert set(values) - PARTS == set(access.OF), "something of each kind"
    return World(project, values)


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(app.routes):
        for method in sorted(route.methods or {"GET"}):
            if route.path not in PUBLIC:
                yield method, str(route.path)


def names_in(path: str) -> set[str]:
    return set(re.findall(r"\{(\w+)(?::\w+)?\}", path))


def of_project(path: str) -> bool:
    return not names_in(path).isdisjoint(access.OF)


def role_for(method: str, path: str) -> ProjectRole:
    name = f"{'GET' if method == 'HEAD' else method} {path}"
    if name in EVALUATORS:
        return ProjectRole.EVALUATOR
    return ProjectRole.LEAD if name in LEADS else ProjectRole.ENGINEER


def address(path: str, values: dict[str, str]) -> str:
    return re.sub(
        r"\{(\w+)(?::\w+)?\}", lambda name: values.get(name[1], "999" if name[1].endswith("_id") else "x"), path
    )


def ask(client: TestClient, method: str, path: str, values: dict[str, str], headers: dict[str, str]) -> httpx.Response:
    return client.request(method, address(path, values), headers={**OWN, **headers})


Sign = Callable[[User], TestClient]
Api = Callable[[User], dict[str, str]]


@pytest.fixture
def join(engine: Engine, factory: Factory, world: World) -> Callable[[ProjectRole], User]:
    """An account that may nothing by itself, as a member of the world's project."""

    def joined(role: ProjectRole) -> User:
        user, admin = factory.user(), factory.admin()
        with write_session(engine) as session:
            project, person, by = session.merge(world.project), session.merge(user), session.merge(admin)
            members.put(session, project=project, user=person, role=role, by=by, acting=ProjectRole.ENGINEER)
        return user

    return joined


def test_strangers_get_nowhere(client: TestClient, world: World) -> None:
    open_to_strangers = [
        f"{method} {path}: {reply.status_code}"
        for method, path in routes(client.app)
        if (reply := ask(client, method, path, world.values, {})).status_code
        != (401 if path.startswith("/api/") else 303)
    ]
    assert open_to_strangers == []


@pytest.mark.parametrize("role", [Role.EVALUATOR, Role.ENGINEER])
def test_a_project_is_not_there_for_whoever_is_not_in_it(
    client: TestClient, world: World, factory: Factory, sign_in: Sign, api: Api, role: Role
) -> None:
    outsider = factory.user(role)
    sign_in(outsider)
    token = api(outsider)
    told_apart = []
    for method, path in routes(client.app):
        if not of_project(path):
            continue
        nowhere = world.values | dict.fromkeys(world.values, "999") | {"slug": "nowhere"}
        hidden, missing = (ask(client, method, path, values, token) for values in (world.values, nowhere))
        if (hidden.status_code, said(hidden, path, world.values)) != (404, said(missing, path, nowhere)):
            told_apart.append(f"{method} {path}: {hidden.status_code}")
    assert told_apart == []


def said(reply: httpx.Response, path: str, values: dict[str, str]) -> str:
    """The words of a refusal, page or JSON, but for the value that was asked for."""
    if reply.request.method == "HEAD":
        return ""
    if path.startswith("/api/"):
        text = f"{reply.json()['detail']} {reply.json()['next_step']}"
    else:
        (text,) = re.findall(r"data-error>([^<]*)<", reply.text)
    (name,) = names_in(path) & set(access.OF)
    return re.sub(rf"\b{values[name]}\b", "VALUE", text)


@pytest.mark.parametrize("role", list(ProjectRole))
def test_members_do_what_their_role_lets_them(
    client: TestClient, world: World, join: Callable[[ProjectRole], User], sign_in: Sign, api: Api, role: ProjectRole
) -> None:
    member = join(role)
    sign_in(member)
    token = api(member)
    wrong = []
    for method, path in routes(client.app):
        if of_project(path):
            refused = ask(client, method, path, world.values, token).status_code == 403
            if refused is role.covers(role_for(method, path)):
                wrong.append(f"{method} {path}: {'refused' if refused else 'open'}")
    assert wrong == []


@pytest.mark.parametrize("role", list(Role))
def test_an_account_role_decides_where_no_project_does(
    client: TestClient, world: World, factory: Factory, sign_in: Sign, api: Api, role: Role
) -> None:
    user = factory.user(role)
    sign_in(user)
    token = api(user)
    for method, path in routes(client.app):
        name = f"{method} {path}"
        if of_project(path):
            continue
        least = Role.ADMIN if ADMINS_ONLY.fullmatch(name) else Role.ENGINEER if name in MAKERS_ONLY else Role.EVALUATOR
        assert least is not Role.EVALUATOR or name in ANYBODY, f"{name} is in no list of this test"
        may = list(Role).index(role) <= list(Role).index(least)
        assert (ask(client, method, path, world.values, token).status_code == 403) is not may, name


def test_admins_are_admins_everywhere(
    client: TestClient, world: World, factory: Factory, sign_in: Sign, api: Api
) -> None:
    admin = factory.admin()
    sign_in(admin)
    token = api(admin)
    assert [name for name in routes(client.app) if ask(client, *name, world.values, token).status_code == 403] == []


def test_a_narrowed_token_reaches_its_projects_only(
    client: TestClient, world: World, factory: Factory, engine: Engine
) -> None:
    other = factory.project(slug="other")
    with write_session(engine) as session:
        admin = session.merge(factory.admin(), load=False)
        _, narrow = tokens.create(session, user=admin, name="other", projects=[other.slug])
    token = {"Authorization": f"Bearer {narrow}"}
    wrong = []
    for method, path in routes(client.app):
        if not path.startswith("/api/"):
            continue
        status = ask(client, method, path, world.values, token).status_code
        reaches = f"{method} {path}" in NARROWED
        if (status != 404) if of_project(path) else ((status == 403) is reaches):
            wrong.append(f"{method} {path}: {status}")
    assert wrong == []
    assert client.get("/api/v1/projects/other", headers=token).status_code == 200
    assert [row["slug"] for row in client.get("/api/v1/projects", headers=token).json()] == ["other"]


def test_a_token_that_only_reads_changes_nothing(
    client: TestClient, world: World, factory: Factory, engine: Engine
) -> None:
    with write_session(engine) as session:
        admin = session.merge(factory.admin(), load=False)
        _, reading = tokens.create(session, user=admin, name="reads", only_reads=True)
    token = {"Authorization": f"Bearer {reading}"}
    for method, path in routes(client.app):
        if path.startswith("/api/"):
            refused = ask(client, method, path, world.values, token).status_code == 403
            assert refused is (method not in ("GET", "HEAD")), f"{method} {path}"


def test_every_value_in_an_address_is_known(client: TestClient) -> None:
    """A new kind of id either leads to a project, in `access.OF`, or belongs to an account."""
    for _, path in routes(client.app):
        known = set(access.OF) | PARTS if of_project(path) else OF_ACCOUNTS
        assert names_in(path) <= known, path
        assert len(names_in(path) & set(access.OF)) <= 1, path


def test_the_lists_of_this_test_are_tidy(client: TestClient) -> None:
    there = {f"{method} {path}" for method, path in routes(client.app)}
    assert (ANYBODY | NARROWED | MAKERS_ONLY | EVALUATORS | LEADS) - there == set()


def test_a_token_opens_no_page_and_a_cookie_no_api(
    client: TestClient, factory: Factory, sign_in: Sign, api: Api
) -> None:
    admin = factory.admin()
    assert client.get("/people", headers=api(admin)).status_code == 303
    sign_in(admin)
    assert client.get("/people").status_code == 200
    assert client.get("/api/v1/users").status_code == 401
    assert client.post("/api/v1/invitations", json={"role": "admin"}, headers=OWN).status_code == 401


def test_a_lost_role_is_gone_with_the_next_click(client: TestClient, factory: Factory, sign_in: Sign) -> None:
    boss, other = factory.admin(), factory.admin()
    sign_in(boss)
    assert client.post(f"/people/{boss.username}/role", data={"role": "evaluator"}, headers=OWN).status_code == 303
    assert client.get("/people").status_code == 403
    assert other.active
