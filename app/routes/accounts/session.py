"""Coming in and going out: password, sign-in link, invitation, sign-out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, PrefloopError, TooMany, WrongCredentials
from app.models import LinkKind, User
from app.services.accounts import audit, links, logins, members, sessions, users
from app.services.accounts.members import Promise
from app.site.addresses import is_loopback
from app.web import request_state
from app.web.deps import EngineDep, MaybeUserDep, SessionDep, SettingsDep, client_address
from app.web.request_state import session_token, set_session_cookie
from app.web.templating import redirect, render

router = APIRouter()


class SignInForm(BaseModel):
    username: str
    password: str
    next: str = "/"


class CodeForm(BaseModel):
    pending: str
    code: str
    next: str = "/"


class LinkForm(BaseModel):
    code: str = ""


class InvitationForm(BaseModel):
    username: str
    display_name: str = ""
    password: str


@dataclass(frozen=True)
class SignInPage:
    next: str
    username: str = ""
    problem: PrefloopError | None = None
    has_admin: bool = True


@dataclass(frozen=True)
class CodePage:
    """`pending` stands for the password that was right."""

    pending: str
    next: str
    problem: PrefloopError | None = None


@dataclass(frozen=True)
class LinkPage:
    """`signed_in`: somebody else whose session the link would replace. `wants_code`: the account has a second factor."""

    name: str
    token: str
    signed_in: str
    wants_code: bool = False
    problem: PrefloopError | None = None


@dataclass(frozen=True)
class InvitationPage:
    token: str
    role: str
    username: str = ""
    display_name: str = ""
    problem: PrefloopError | None = None
    projects: Sequence[Promise] = ()


@router.get("/sign-in")
def show_sign_in(request: Request, session: SessionDep, user: MaybeUserDep, next: str = "/") -> Response:
    if user:
        return redirect(security.local_path(next))
    return render(
        request,
        "accounts/session/sign_in.html",
        SignInPage(security.local_path(next), has_admin=users.has_admin(session)),
    )


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
        return render(request, "accounts/session/code.html", CodePage(needed.pending, security.local_path(form.next)))
    except (WrongCredentials, TooMany) as problem:
        return _refused(request, SignInPage(security.local_path(form.next), form.username, problem), problem)
    return _admit(request, settings, token, security.local_path(form.next))


@router.post("/sign-in/code")
def give_code(
    request: Request, form: Annotated[CodeForm, Form()], engine: EngineDep, settings: SettingsDep
) -> Response:
    target = security.local_path(form.next)
    try:
        _, token = logins.give_code(
            engine,
            pending=form.pending,
            code=form.code,
            address=client_address(request),
            settings=settings,
            user_agent=request.headers.get("user-agent", ""),
        )
    except logins.WrongCode as problem:
        page = CodePage(form.pending, target, problem)
        return render(request, "accounts/session/code.html", page, status=problem.status)
    except (WrongCredentials, TooMany) as problem:
        return _refused(request, SignInPage(target, problem=problem), problem)
    return _admit(request, settings, token, target)


def _refused(request: Request, page: SignInPage, problem: PrefloopError) -> Response:
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


@router.get("/link/{token}")
def open_link(token: str, request: Request, session: SessionDep, settings: SettingsDep, user: MaybeUserDep) -> Response:
    try:
        link = links.find(session, token=token, settings=settings)
    except links.LinkUsed as used:
        if user and used.user_id == user.id:  # opened twice by the same person
            return redirect("/")
        raise
    if link.kind == LinkKind.INVITATION and link.role:
        projects = members.promises(session, link_ids=[link.id]).get(link.id, ())
        page = InvitationPage(token, link.role.value, projects=projects)
        return render(request, "accounts/session/invitation.html", page)
    replaces = user is not None and user.id != link.user_id
    owner = session.get_one(User, link.user_id)
    if _opened_by_a_person(request, settings) and not replaces and not owner.has_second_factor:
        return _use_link(request, settings, token)
    signed_in = user.display_name if user and replaces else ""
    shown = LinkPage(owner.display_name, token, signed_in, owner.has_second_factor)
    return render(request, "accounts/session/link.html", shown)


@router.post("/link/{token}")
def use_link(token: str, request: Request, form: Annotated[LinkForm, Form()], settings: SettingsDep) -> Response:
    engine = request.app.state.engine
    with read_session(engine) as session:
        link = links.find(session, token=token, settings=settings)
        owner = session.get(User, link.user_id) if link.user_id else None
    if owner is not None and owner.has_second_factor:
        try:
            address = client_address(request)
            logins.check_code(engine, user=owner, code=form.code, address=address, settings=settings)
        except logins.WrongCode as problem:
            page = LinkPage(owner.display_name, token, "", wants_code=True, problem=problem)
            return render(request, "accounts/session/link.html", page, status=problem.status)
    return _use_link(request, settings, token)


@router.post("/invitation/{token}")
def accept_invitation(
    token: str, request: Request, form: Annotated[InvitationForm, Form()], settings: SettingsDep
) -> Response:
    try:
        with read_session(request.app.state.engine) as session:
            links.find(session, token=token, settings=settings)  # nobody makes us hash without an invitation
        password = users.hashed(form.password, form.username, form.display_name)
        with write_session(request.app.state.engine) as session:
            session.info["address"] = client_address(request)
            user = links.accept_invitation(
                session,
                token=token,
                username=form.username,
                display_name=form.display_name,
                password=password,
                settings=settings,
            )
            cookie = _start_session(request, session, user, settings, how="invitation")
    except (Invalid, Conflict) as problem:  # nothing was committed: the invitation can be taken again
        with write_session(request.app.state.engine) as session:
            link = links.find(session, token=token, settings=settings)
            projects = members.promises(session, link_ids=[link.id]).get(link.id, ())
        role = link.role.value if link.role else ""
        page = InvitationPage(token, role, form.username, form.display_name, problem, projects)
        return render(request, "accounts/session/invitation.html", page, status=problem.status)
    return _admit(request, settings, cookie, "/")


def _use_link(request: Request, settings: Settings, token: str) -> Response:
    with write_session(request.app.state.engine) as session:
        session.info["address"] = client_address(request)
        user = links.use(session, token=token, settings=settings)
        cookie = _start_session(request, session, user, settings, how="link")
    return _admit(request, settings, cookie, "/")


def _start_session(request: Request, session: SessionDep, user: User, settings: Settings, how: str) -> str:
    audit.record(session, by=user, action="session.start", target=f"user {user.username}", how=how)
    return sessions.start(
        session,
        user=user,
        address=client_address(request),
        user_agent=request.headers.get("user-agent", ""),
        settings=settings,
    )


def _admit(request: Request, settings: Settings, token: str, target: str) -> RedirectResponse:
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


def _opened_by_a_person(request: Request, settings: Settings) -> bool:
    """Whether a GET of a sign-in link may use it up at once. Previews of chats, mail scanners and prefetching must
    not, and another site must not sign a browser in as somebody else; all those get a button instead."""
    headers = request.headers
    if "prefetch" in headers.get("sec-purpose", "") + headers.get("purpose", ""):
        return False
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "none" and headers.get("sec-fetch-mode") == "navigate"
    # No such headers: a program, or a browser over plain HTTP. No scanner reaches a server that only this machine sees.
    return not settings.public_url and is_loopback(settings.host) and is_loopback(client_address(request))
