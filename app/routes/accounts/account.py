"""One's own account: password, signed-in browsers, API tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, field_validator
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session
from app.errors import Invalid, NotFound, PrefloopError
from app.models import ApiToken, Passkey, Project, User, UserSession
from app.routes.accounts.owner import OwnerDep
from app.routes.accounts.session import passkeys_at
from app.services.accounts import access, logins, passkeys, second_factor, sessions, tokens
from app.web.deps import (
    Browser,
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
    keep_tokens: bool = False


class TokenForm(BaseModel):
    """`days`: 0 means as many as are usual, an empty field until it is revoked."""

    name: str
    days: int | None = 0
    project: list[str] = []
    only_reads: bool = False
    password: str = ""

    @field_validator("days", mode="before")
    @classmethod
    def _empty_is_never(cls, value: object) -> object:
        return None if value == "" else value


@dataclass(frozen=True)
class AccountPage:
    """`here`: the session of the browser that asks; `is_fresh`: it began a moment ago, so no password is asked.
    `new_token` is shown this once. `password_problem` and `token_problem` say why a form did nothing. `projects`: those to which a
    token can be narrowed. `passkeys_at`: the address whose passkeys browsers keep, empty where there is none."""

    account: User
    here: int
    browsers: list[tuple[UserSession, str]]
    tokens: Sequence[ApiToken]
    passkeys: Sequence[Passkey]
    passkeys_at: str
    projects: Sequence[Project]
    is_fresh: bool
    token_days: int
    codes_left: int
    must_have_second: bool
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
            keep_tokens=form.keep_tokens,
        )
    except Invalid as problem:
        return _page_of(request, engine, browser, password_problem=problem)
    ended = (
        "Your other browsers were signed out."
        if form.keep_tokens
        else "Your other browsers and your tokens were ended."
    )
    with read_session(engine) as session:
        if session.get_one(User, browser.user_id).has_passkey:
            ended += " Each passkey asks for the new password once."
    return redirect("/account", f"The password was changed. {ended}", "good")


@router.post("/sessions/{session_id}/revoke")
def end_session(session_id: RowId, session: SessionDep, user: UserDep) -> Response:
    sessions.revoke(session, session_id=session_id, user=user)
    return redirect("/account", "That browser was signed out.")


@router.post("/sessions/revoke-others")
def end_other_sessions(session: SessionDep, user: UserDep, here: BrowserSessionDep) -> Response:
    ended = sessions.revoke_all(session, user=user, except_id=here, by=user)
    return redirect("/account", f"{ended} other browser{'' if ended == 1 else 's'} signed out.")


@router.post("/tokens")
def make_token(
    request: Request,
    form: Annotated[TokenForm, Form()],
    owner: OwnerDep,
) -> Response:
    try:
        owner.prove(form.password)
        with owner.writing() as (session, user):
            _, secret = tokens.create(
                session,
                user=user,
                name=form.name,
                days=form.days,
                projects=form.project or None,
                only_reads=form.only_reads,
                settings=owner.settings,
            )
    except (Invalid, NotFound) as problem:
        return _page_of(request, owner.engine, owner.browser, token_problem=problem)
    return _page_of(
        request, owner.engine, owner.browser, new_token=secret
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


def _page_of(request: Request, engine: Engine, browser: Browser, **shown: Any) -> Response:
    with read_session(engine) as session:
        return _page(request, session, session.get_one(User, browser.user_id), browser.session_id, **shown)


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
    settings: Settings = request.app.state.settings
    page = AccountPage(
        account=user,
        here=here,
        browsers=[(row, browser_name(row.user_agent)) for row in sessions.listing(session, user=user)],
        tokens=tokens.listing(session, user=user),
        passkeys=passkeys.listing(session, user=user),
        passkeys_at=passkeys_at(settings),
        projects=access.projects(session, caller=access.Caller.of(user)),
        is_fresh=sessions.is_fresh(session, session_id=here, settings=settings),
        token_days=settings.token_days,
        codes_left=second_factor.codes_left(session, user=user),
        must_have_second=second_factor.is_required(user, settings),
        new_token=new_token,
        password_problem=password_problem,
        token_problem=token_problem,
    )
    problem = password_problem or token_problem
    return render(request, "accounts/account/show.html", page, status=problem.status if problem else 200)
