"""Who calls, and for admins: people, invitations, tokens, the audit trail."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.models import ApiToken, ProjectRole, Role
from app.services.accounts import audit, links, passkeys, second_factor, sessions, tokens, users
from app.web.deps import ApiAdminDep, ApiNarrowUserDep, ApiUserDep, RowId, SessionDep, SettingsDep
from app.web.problems import problems

router = APIRouter(tags=["people"])


class Person(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    username: str
    display_name: str
    role: Role
    active: bool
    is_demo: bool
    has_second_factor: bool
    created_at: datetime
    last_seen_at: datetime | None


class NewPerson(BaseModel):
    username: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$", description="Kept in lower case.")
    display_name: str = Field("", max_length=120)
    role: Role = Role.EVALUATOR


class PersonChange(BaseModel):
    """What is left out stays."""

    role: Role | None = None
    active: bool | None = None


class OneUseLink(BaseModel):
    url: str = Field(description="Works once; anybody who has it is let in.")
    valid_seconds: int


class NewInvitation(BaseModel):
    role: Role = Role.EVALUATOR
    note: str = Field("", max_length=120, description="For whom it is.")
    projects: dict[str, ProjectRole] = Field(
        {}, max_length=100, description="What they become in projects, by slug.", examples=[{"tone": "evaluator"}]
    )


class Token(BaseModel):
    id: int
    name: str
    prefix: str = Field(description="How the token begins.")
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    projects: list[str] | None = Field(description="The only ones in which it acts; null: wherever you may.")
    only_reads: bool = Field(description="It changes nothing.")

    @classmethod
    def of(cls, row: ApiToken) -> "Token":
        names = ("id", "name", "prefix", "created_at", "last_used_at", "expires_at", "only_reads")
        projects = [project.slug for project in row.projects] if row.narrowed else None
        return cls(**{name: getattr(row, name) for name in names}, projects=projects)


class Browser(BaseModel):
    """A signed-in browser."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    user_agent: str
    address: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class Passkey(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    alone: bool = Field(description="It signs in by itself; else only beside a password or link, until it did so once.")
    created_at: datetime
    last_used_at: datetime | None


class Entry(BaseModel):
    at: datetime
    username: str | None = Field(description="None: the command line, or with an address somebody who isn't signed in.")
    action: str
    target: str
    detail: dict[str, Any]
    address: str


class Entries(BaseModel):
    items: list[Entry]
    page: int
    pages: int
    total: int


@router.get("/me")
def me(user: ApiNarrowUserDep) -> Person:
    """The account that the token belongs to."""
    return Person.model_validate(user)


@router.get("/tokens")
def my_tokens(session: SessionDep, user: ApiUserDep) -> list[Token]:
    """One's own tokens, without their secrets. New ones are made on the account page or by `prefloop token create`."""
    return [Token.of(row) for row in tokens.listing(session, user=user)]


@router.delete("/tokens/{token_id}", status_code=204, responses=problems(404))
def revoke_token(token_id: RowId, session: SessionDep, user: ApiUserDep) -> Response:
    """End one of one's own tokens."""
    tokens.revoke(session, token_id=token_id, by=user, user=user)
    return Response(status_code=204)


@router.get("/users")
def list_users(session: SessionDep, user: ApiAdminDep) -> list[Person]:
    """Everybody: active first, then by name."""
    return [Person.model_validate(row) for row in users.listing(session)]


@router.post("/users", status_code=201, responses=problems(409))
def add_user(body: NewPerson, session: SessionDep, user: ApiAdminDep) -> Person:
    """Make an account without a password; a sign-in link lets its owner in."""
    row = users.create(session, username=body.username, display_name=body.display_name, role=body.role, by=user)
    return Person.model_validate(row)


@router.patch("/users/{username}", responses=problems(404, 409))
def change_user(username: str, body: PersonChange, session: SessionDep, user: ApiAdminDep) -> Person:
    """Change a role, shut somebody out, or let them in again."""
    person = users.get(session, username)
    if body.role is not None:
        users.set_role(session, user=person, role=body.role, by=user)
    if body.active is not None:
        users.set_active(session, user=person, active=body.active, by=user)
    return Person.model_validate(person)


@router.get("/users/{username}/sessions", responses=problems(404))
def list_sessions(username: str, session: SessionDep, user: ApiAdminDep) -> list[Browser]:
    """Where somebody is signed in, the last used first."""
    return [Browser.model_validate(row) for row in sessions.listing(session, user=users.get(session, username))]


@router.delete("/users/{username}/sessions/{session_id}", status_code=204, responses=problems(404))
def end_session(username: str, session_id: RowId, session: SessionDep, user: ApiAdminDep) -> Response:
    """Sign one of somebody's browsers out."""
    sessions.revoke(session, session_id=session_id, user=users.get(session, username), by=user)
    return Response(status_code=204)


@router.delete("/users/{username}/sessions", status_code=204, responses=problems(404))
def end_sessions(username: str, session: SessionDep, user: ApiAdminDep) -> Response:
    """Sign somebody out everywhere."""
    sessions.revoke_all(session, user=users.get(session, username), by=user)
    return Response(status_code=204)


@router.get("/users/{username}/tokens", responses=problems(404))
def list_tokens(username: str, session: SessionDep, user: ApiAdminDep) -> list[Token]:
    """Somebody's tokens that aren't revoked, without their secrets."""
    return [Token.of(row) for row in tokens.listing(session, user=users.get(session, username))]


@router.delete("/users/{username}/tokens/{token_id}", status_code=204, responses=problems(404))
def end_token(username: str, token_id: RowId, session: SessionDep, user: ApiAdminDep) -> Response:
    """End one of somebody's tokens."""
    tokens.revoke(session, token_id=token_id, by=user, user=users.get(session, username))
    return Response(status_code=204)


@router.get("/users/{username}/passkeys", responses=problems(404))
def list_passkeys(username: str, session: SessionDep, user: ApiAdminDep) -> list[Passkey]:
    """Somebody's passkeys, the newest first."""
    return [Passkey.model_validate(row) for row in passkeys.listing(session, user=users.get(session, username))]


@router.delete("/users/{username}/passkeys/{passkey_id}", status_code=204, responses=problems(404, 409))
def remove_passkey(
    username: str, passkey_id: RowId, session: SessionDep, user: ApiAdminDep, settings: SettingsDep
) -> Response:
    """End one of somebody's passkeys."""
    person = users.get(session, username)
    passkeys.remove(session, passkey_id=passkey_id, user=person, by=user, settings=settings)
    return Response(status_code=204)


@router.delete("/users/{username}/second-factor", status_code=204, responses=problems(404, 409))
def reset_second_factor(username: str, session: SessionDep, user: ApiAdminDep, settings: SettingsDep) -> Response:
    """End the authenticator app, the passkeys and the recovery codes of somebody who lost them."""
    second_factor.reset(session, user=users.get(session, username), by=user, settings=settings)
    return Response(status_code=204)


@router.post("/users/{username}/link", status_code=201, responses=problems(404, 409))
def make_sign_in_link(username: str, session: SessionDep, user: ApiAdminDep, settings: SettingsDep) -> OneUseLink:
    """A link that signs this person in once; it replaces an earlier one."""
    token = links.create_sign_in(session, user=users.get(session, username), by=user, settings=settings)
    return OneUseLink(url=links.url(token, settings), valid_seconds=settings.link_minutes * 60)


@router.post("/invitations", status_code=201, responses=problems(404))
def invite(body: NewInvitation, session: SessionDep, user: ApiAdminDep, settings: SettingsDep) -> OneUseLink:
    """A link whose taker chooses a user name and gets the role."""
    token = links.invite(session, role=body.role, note=body.note, projects=body.projects, by=user, settings=settings)
    return OneUseLink(url=links.url(token, settings), valid_seconds=settings.invitation_days * 86400)


@router.get("/audit")
def read_audit(
    session: SessionDep,
    user: ApiAdminDep,
    username: str = Query("", max_length=64),
    action: str = Query("", max_length=64),
    target: str = Query("", max_length=120),
    page: int = Query(1, ge=1, le=1_000_000),
) -> Entries:
    """Who did what, newest first. `action` filters by its beginning: `job` or `job.cancel`."""
    entries = audit.listing(session, username=username, action=action, target=target, page=page)
    items = [
        Entry(
            at=entry.at,
            username=name,
            action=entry.action,
            target=entry.target,
            detail=entry.detail,
            address=entry.address,
        )
        for entry, name in entries.items
    ]
    return Entries(items=items, page=entries.number, pages=entries.pages, total=entries.total)
