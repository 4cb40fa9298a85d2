"""Links that let somebody in: to sign in once, or to make an account."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, PrefloopError
from app.models import LinkKind, User
from app.routes.accounts.session import Asked, SecondForm, admit, answer_of
from app.services.accounts import audit, links, logins, members, sessions, users
from app.services.accounts.members import Promise
from app.services.accounts.second_factor import WrongFactor
from app.site.addresses import is_loopback
from app.web.deps import MaybeUserDep, SessionDep, SettingsDep, client_address
from app.web.templating import redirect, render

router = APIRouter()


class InvitationForm(BaseModel):
    username: str
    display_name: str = ""
    password: str


@dataclass(frozen=True)
class LinkPage:
    """`signed_in`: somebody else whose session the link would replace. `asked`: where the account has a second factor."""

    name: str
    token: str
    signed_in: str
    asked: Asked | None = None
    problem: PrefloopError | None = None


@dataclass(frozen=True)
class InvitationPage:
    token: str
    role: str
    username: str = ""
    display_name: str = ""
    problem: PrefloopError | None = None
    projects: Sequence[Promise] = ()


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
    asked = Asked.of(owner, settings) if owner.has_second_factor else None
    shown = LinkPage(owner.display_name, token, signed_in, asked)
    return render(request, "accounts/session/link.html", shown)


@router.post("/link/{token}")
def use_link(token: str, request: Request, form: Annotated[SecondForm, Form()], settings: SettingsDep) -> Response:
    engine = request.app.state.engine
    with read_session(engine) as session:
        link = links.find(session, token=token, settings=settings)
        owner = session.get(User, link.user_id) if link.user_id else None
    if owner is not None and owner.has_second_factor:
        try:
            address = client_address(request)
            answer = answer_of(request, settings, form.passkey) if form.passkey else None
            logins.check_second(engine, user=owner, code=form.code, answer=answer, address=address, settings=settings)
        except WrongFactor as problem:
            page = LinkPage(owner.display_name, token, "", Asked.of(owner, settings), problem=problem)
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
    return admit(request, settings, cookie, "/")


def _use_link(request: Request, settings: Settings, token: str) -> Response:
    with write_session(request.app.state.engine) as session:
        session.info["address"] = client_address(request)
        user = links.use(session, token=token, settings=settings)
        cookie = _start_session(request, session, user, settings, how="link")
    return admit(request, settings, cookie, "/")


def _start_session(request: Request, session: SessionDep, user: User, settings: Settings, how: str) -> str:
    audit.record(session, by=user, action="session.start", target=f"user {user.username}", how=how)
    return sessions.start(
        session,
        user=user,
        address=client_address(request),
        user_agent=request.headers.get("user-agent", ""),
        settings=settings,
    )


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
