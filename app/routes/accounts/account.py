"""One's own account: password, signed-in browsers, API tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, field_validator
from sqlalchemy.orm import Session

from app.db import read_session
from app.errors import Invalid, NotFound, PrefloopError
from app.models import ApiToken, Project, User, UserSession
from app.services.accounts import access, logins, sessions, tokens
from app.web.deps import (
    BrowserDep,
    BrowserSessionDep,
    EngineDep,
    RowId,
    SessionDep,
    SettingsDep,
    UserDep,
    client_address,
)
from app.web.templating import redirect, render

router = APIRouter(prefix="/account")

# In this order: most browsers name several others.
BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


class PasswordForm(BaseModel):
    current: str = ""
    password: str


class TokenForm(BaseModel):
    name: str
    days: int | None = None
    project: list[str] = []
    only_reads: bool = False

    @field_validator("days", mode="before")
    @classmethod
    def _empty_is_never(cls, value: object) -> object:
        return value or None


@dataclass(frozen=True)
class AccountPage:
    """`here`: the session of the browser that asks. `new_token` is shown this once. `password_problem` and
    `token_problem` say why a form did nothing. `projects`: those to which a token can be narrowed."""

    account: User
    here: int
    browsers: list[tuple[UserSession, str]]
    tokens: Sequence[ApiToken]
    projects: Sequence[Project]
    new_token: str = ""
    password_problem: PrefloopError | None = None
    token_problem: PrefloopError | None = None


@router.get("")
def show(request: Request, session: SessionDep, user: UserDep, here: BrowserSessionDep) -> Response:
    return _page(request, session, user, here)


@router.post("/password")
def change_password(
    request: Request,
    form: Annotated[PasswordForm, Form()],
    engine: EngineDep,
    browser: BrowserDep,
    settings: SettingsDep,
) -> Response:
    try:
        logins.change_password(
            engine,
            user_id=browser.user_id,
            current=form.current,
            new=form.password,
            session_id=browser.session_id,
            address=client_address(request),
            settings=settings,
        )
    except Invalid as problem:
        with read_session(engine) as session:
            user = session.get_one(User, browser.user_id)
            return _page(request, session, user, browser.session_id, password_problem=problem)
    return redirect("/account", "The password was changed. Your other browsers were signed out.", "good")


@router.post("/sessions/{session_id}/revoke")
def end_session(session_id: RowId, session: SessionDep, user: UserDep) -> Response:
    sessions.revoke(session, session_id=session_id, user=user)
    return redirect("/account", "That browser was signed out.")


@router.post("/sessions/revoke-others")
def end_other_sessions(session: SessionDep, user: UserDep, here: BrowserSessionDep) -> Response:
    ended = sessions.revoke_all(session, user=user, except_id=here)
    return redirect("/account", f"{ended} other browser{'' if ended == 1 else 's'} signed out.")


@router.post("/tokens")
def make_token(
    request: Request,
    form: Annotated[TokenForm, Form()],
    session: SessionDep,
    user: UserDep,
    here: BrowserSessionDep,
    settings: SettingsDep,
) -> Response:
    try:
        _, secret = tokens.create(
            session,
            user=user,
            name=form.name,
            days=form.days,
            projects=form.project or None,
            only_reads=form.only_reads,
            settings=settings,
        )
    except (Invalid, NotFound) as problem:
        return _page(request, session, user, here, token_problem=problem)
    return _page(
        request, session, user, here, new_token=secret
    )  # not after a redirect: nothing may keep the token for it


@router.post("/tokens/{token_id}/revoke")
def revoke_token(token_id: RowId, session: SessionDep, user: UserDep) -> Response:
    tokens.revoke(session, token_id=token_id, by=user, user=user)
    return redirect("/account", "The token was revoked.")


def browser_name(user_agent: str) -> str:
    """“Firefox on Linux”; a program's own words where it isn't one of the known browsers."""
    name = next((name for sign, name in BROWSERS if sign in user_agent), "")
    system = next((name for sign, name in SYSTEMS if sign in user_agent), "")
    return f"{name} on {system}" if name and system else user_agent[:60] or "unknown"


def _page(
    request: Request,
    session: Session,
    user: User,
    here: int,
    *,
    new_token: str = "",
    password_problem: PrefloopError | None = None,
    token_problem: PrefloopError | None = None,
) -> Response:
    browsers = [(row, browser_name(row.user_agent)) for row in sessions.listing(session, user=user)]
    page = AccountPage(
        user,
        here,
        browsers,
        tokens.listing(session, user=user),
        access.projects(session, caller=access.Caller.of(user)),
        new_token,
        password_problem,
        token_problem,
    )
    problem = password_problem or token_problem
    return render(request, "accounts/account/show.html", page, status=problem.status if problem else 200)
