"""Coming in and going out: password and second factor, sign-out."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel

from app import security
from app.config import Settings
from app.db import write_session
from app.errors import PrefloopError, TooMany, WrongCredentials
from app.models import User
from app.services.accounts import logins, sessions, users
from app.services.accounts.passkeys import Answer
from app.services.accounts.second_factor import WrongFactor
from app.web import request_state
from app.web.deps import EngineDep, MaybeUserDep, SessionDep, SettingsDep, client_address
from app.web.request_state import session_token, set_session_cookie
from app.web.templating import redirect, render

router = APIRouter()


class SignInForm(BaseModel):
    username: str
    password: str
    next: str = "/"


class SecondForm(BaseModel):
    """`passkey`: the answer of the browser's dialogue, in place of a code."""

    code: str = ""
    passkey: str = ""


class CodeForm(SecondForm):
    pending: str
    next: str = "/"


@dataclass(frozen=True)
class SignInPage:
    """`passkeys_at`: the address whose passkeys browsers keep, empty where there is none."""

    next: str
    passkeys_at: str
    username: str = ""
    problem: PrefloopError | None = None
    has_admin: bool = True

    @classmethod
    def of(cls, settings: Settings, next: str, **shown: Any) -> "SignInPage":
        return cls(next, passkeys_at(settings), **shown)


@dataclass(frozen=True)
class Asked:
    """The second factors that an account has, of which one is asked for; `passkeys_at` as above."""

    app: bool = False
    passkey: bool = False
    passkeys_at: str = ""

    @classmethod
    def of(cls, user: User, settings: Settings) -> "Asked":
        return cls(user.has_app, user.has_passkey, passkeys_at(settings))


@dataclass(frozen=True)
class CodePage:
    """`pending` stands for the password that was right."""

    pending: str
    next: str
    asked: Asked
    problem: PrefloopError | None = None


@router.get("/sign-in")
def show_sign_in(
    request: Request, session: SessionDep, user: MaybeUserDep, settings: SettingsDep, next: str = "/"
) -> Response:
    if user:
        return redirect(security.local_path(next))
    page = SignInPage.of(settings, security.local_path(next), has_admin=users.has_admin(session))
    return render(request, "accounts/session/sign_in.html", page)


@router.post("/sign-in")
def sign_in(
    request: Request, form: Annotated[SignInForm, Form()], engine: EngineDep, settings: SettingsDep
) -> Response:
    try:
        _, token = logins.sign_in(
            engine,
            username=form.username,
            password=form.password,
            address=client_address(request),
            settings=settings,
            user_agent=request.headers.get("user-agent", ""),
        )
    except logins.CodeNeeded as needed:
        page = CodePage(needed.pending, security.local_path(form.next), Asked.of(needed.user, settings))
        return render(request, "accounts/session/code.html", page)
    except (WrongCredentials, TooMany) as problem:
        again = SignInPage.of(settings, security.local_path(form.next), username=form.username, problem=problem)
        return refused(request, again, problem)
    return admit(request, settings, token, security.local_path(form.next))


@router.post("/sign-in/code")
def give_second(
    request: Request, form: Annotated[CodeForm, Form()], engine: EngineDep, settings: SettingsDep
) -> Response:
    target = security.local_path(form.next)
    try:
        _, token = logins.give_second(
            engine,
            pending=form.pending,
            code=form.code,
            answer=answer_of(request, settings, form.passkey) if form.passkey else None,
            address=client_address(request),
            settings=settings,
            user_agent=request.headers.get("user-agent", ""),
        )
    except WrongFactor as problem:
        user = logins.waiting(engine, pending=form.pending, settings=settings)
        page = CodePage(form.pending, target, Asked.of(user, settings), problem)
        return render(request, "accounts/session/code.html", page, status=problem.status)
    except (WrongCredentials, TooMany) as problem:
        return refused(request, SignInPage.of(settings, target, problem=problem), problem)
    return admit(request, settings, token, target)


def refused(request: Request, page: SignInPage, problem: PrefloopError) -> Response:
    response = render(request, "accounts/session/sign_in.html", page, status=problem.status)
    if "retry_after" in problem.details:
        response.headers["Retry-After"] = str(problem.details["retry_after"])
    return response


@router.post("/sign-out")
def sign_out(request: Request, session: SessionDep, settings: SettingsDep, user: MaybeUserDep) -> Response:
    session_id = request_state.of(request).session_id
    if user and session_id:
        sessions.revoke(session, session_id=session_id, user=user)
    response = redirect("/sign-in", "You are signed out.")
    if not settings.site.root:  # with a path, the rest of the host is somebody else's
        response.headers["Clear-Site-Data"] = '"storage"'
    response.delete_cookie(
        settings.site.session_cookie,
        path=settings.site.cookie_path,
        secure=settings.site.is_secure,
        httponly=True,
        samesite="lax",
    )
    return response


def admit(request: Request, settings: Settings, token: str, target: str) -> RedirectResponse:
    """Sends the new session's cookie; the one that the browser had ends."""
    old = session_token(request, settings.site)
    if old:
        with write_session(request.app.state.engine) as session:
            old_session = sessions.find(session, token=old, settings=settings)
            if old_session:
                sessions.revoke(session, session_id=old_session.id, user=old_session.user)
    response = redirect(target)
    set_session_cookie(response, settings.site, token)
    return response


def answer_of(request: Request, settings: Settings, text: str) -> Answer:
    """The answer of a browser that isn't signed in yet: a cookie says which one was asked."""
    return Answer(text, request.cookies.get(settings.site.passkey_cookie, ""))


def passkeys_at(settings: Settings) -> str:
    place = settings.public_address.for_passkeys
    return place.url if place else ""
