"""Who asks: the account behind a cookie or token, the role that it needs, and how widely its token may look."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import look_session
from app.errors import NotAllowed, SecondFactorNeeded, SignInNeeded
from app.models import ApiToken, Role, User, UserSession
from app.services.accounts import second_factor, sessions, tokens
from app.services.accounts.access import Caller
from app.web import request_state
from app.web.deps.work import BearerDep, EngineDep, SessionDep, SettingsDep, UseNoted
from app.web.request_state import Viewer, session_token

# What is open to who must have a second factor and has none yet.
SETTING_UP = frozenset(
    {
        ("GET", "/account"),
        ("POST", "/account/password"),
        ("POST", "/account/second-factor"),
        ("POST", "/account/second-factor/confirm"),
        ("POST", "/account/passkeys"),
        ("POST", "/account/passkeys/options"),
    }
)
EVERYBODY = frozenset(Role)
MAKERS = frozenset({Role.ENGINEER, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})
Looked = TypeVar("Looked")


def signed_in_user(request: Request, session: Session, settings: Settings) -> User | None:
    """The user of the request's session cookie, if that session lives; the request's state then knows them too."""
    token = session_token(request, settings.site)
    row = sessions.find(session, token=token, settings=settings) if token else None
    return known_by(request, settings, token, row.user, row.id, row.last_used_at) if token and row else None


def known_by(
    request: Request, settings: Settings, token: str, user: User, session_id: int, last_used_at: datetime
) -> User:
    """The user of a living session; the request's state then knows them too."""
    state = request_state.of(request)
    state.viewer = viewer = Viewer.of(user)
    state.caller = Caller.of(user)
    state.session_id = session_id
    if settings.site.session_cookie not in request.cookies:
        state.adopted = token
    state.still_in = lambda later: _is_still(sessions.find(later, token=token, settings=settings), viewer)
    if sessions.is_stale(last_used_at):
        state.note_use = lambda later: sessions.touch(later, session_id=session_id, settings=settings)
    return user


def token_user(
    request: Request, session: Session, settings: Settings, bearer: HTTPAuthorizationCredentials | None
) -> User:
    row = tokens.find(session, token=bearer.credentials, settings=settings) if bearer else None
    if row is None or bearer is None:
        raise SignInNeeded(
            "The API needs a valid token." if bearer is None else "This token is unknown, revoked or expired.",
            "Send `Authorization: Bearer plf_…`; make one on the account page or with `prefloop token create`.",
        )
    state = request_state.of(request)
    state.viewer = viewer = Viewer.of(row.user)
    state.caller = Caller(row.user_id, row.user.role, row.id if row.narrowed else None)
    if row.only_reads and request.method not in ("GET", "HEAD"):
        raise NotAllowed("This token only reads.", "Make one that may change things too, if this script is meant to.")
    state.still_in = lambda later: _is_still(tokens.find(later, token=bearer.credentials, settings=settings), viewer)
    if tokens.is_stale(row):
        state.note_use = lambda later: tokens.touch(later, token_id=row.id)
    return row.user


def _is_still(row: UserSession | ApiToken | None, viewer: Viewer) -> bool:
    """Whether the session or token still lives with the same role: asked again while a long answer is sent."""
    return row is not None and row.user.role == viewer.role


def looked_up(request: Request, session: Session, engine: Engine, look: Callable[[Session], Looked]) -> Looked:
    """What `look` finds in `session`. A request that writes looks in a session of its own, which is over at once: who
    may write isn't a reason to keep others from writing. The rows that it finds are then still to be merged."""
    if request.method in ("GET", "HEAD"):
        return look(session)
    with look_session(engine) as looking:
        return look(looking)


def _maybe_user(
    request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted
) -> User | None:
    user = looked_up(request, session, engine, lambda looking: signed_in_user(request, looking, settings))
    return user and session.merge(user, load=False)


MaybeUserDep = Annotated[User | None, Depends(_maybe_user)]


def _api_user(
    request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep
) -> User | None:
    user = looked_up(request, session, engine, lambda looking: token_user(request, looking, settings, bearer))
    return session.merge(user, load=False)


def allowed(user: User | None, roles: frozenset[Role]) -> User:
    if user is None:
        raise SignInNeeded("Please sign in.")
    if user.role not in roles:
        needed = "admins" if roles == ADMINS else "engineers and admins"
        raise NotAllowed(
            f"This is for {needed}; you are signed in as {user.role.value}.", "An admin can change your role."
        )
    return user


def check_second_factor(request: Request, user: User) -> User:
    """Who must have a second factor and has none sees their account, where it is set up, and nothing else; their tokens,
    made before, go on. Raises SecondFactorNeeded."""
    is_page = request_state.of(request).session_id is not None
    if not is_page or (request.method, request.url.path) in SETTING_UP:
        return user
    if second_factor.is_missing(user, request.app.state.settings):
        raise SecondFactorNeeded(
            f"Each {user.role.value} here must have a second factor.", "Set it up on your account page, then go on."
        )
    return user


def _page_guard(roles: frozenset[Role]) -> Callable[..., Awaitable[User]]:
    async def user_with_role(request: Request, user: MaybeUserDep) -> User:
        return check_second_factor(request, allowed(user, roles))

    return user_with_role


def _api_guard(roles: frozenset[Role], *, narrowed: bool = False) -> Callable[..., Awaitable[User]]:
    """`narrowed`: a token of some projects is let in too; the route then shows nothing of others."""

    async def api_user_with_role(request: Request, user: Annotated[User | None, Depends(_api_user)]) -> User:
        caller = request_state.of(request).caller
        if caller is not None and caller.token_id is not None and not narrowed:
            raise NotAllowed("This token is for some projects only.", "Use one that isn't narrowed to projects.")
        return allowed(user, roles)

    return api_user_with_role


UserDep = Annotated[User, Depends(_page_guard(EVERYBODY))]
MakerDep = Annotated[User, Depends(_page_guard(MAKERS))]
AdminDep = Annotated[User, Depends(_page_guard(ADMINS))]
ApiUserDep = Annotated[User, Depends(_api_guard(EVERYBODY))]
ApiMakerDep = Annotated[User, Depends(_api_guard(MAKERS))]
ApiAdminDep = Annotated[User, Depends(_api_guard(ADMINS))]
# For routes that show or do only what the caller may: they ask `access` with an ApiCallerDep.
ApiNarrowUserDep = Annotated[User, Depends(_api_guard(EVERYBODY, narrowed=True))]


def caller_of(request: Request) -> Caller:
    caller = request_state.of(request).caller
    assert caller is not None  # whoever is signed in is known as a caller
    return caller


async def _page_caller(request: Request, _: UserDep) -> Caller:
    return caller_of(request)


async def _api_caller(request: Request, _: ApiNarrowUserDep) -> Caller:
    return caller_of(request)


def _api_caller_apart(
    request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep
) -> Caller:
    with look_session(engine) as session:
        token_user(request, session, settings, bearer)
    return caller_of(request)


CallerDep = Annotated[Caller, Depends(_page_caller)]
ApiCallerDep = Annotated[Caller, Depends(_api_caller)]
# Looked up in a session that is over, for routes that open their own.
ApiCallerApartDep = Annotated[Caller, Depends(_api_caller_apart)]


async def _browser_session(request: Request, _: UserDep) -> int:
    session_id = request_state.of(request).session_id
    if session_id is None:  # a page's user always comes with one
        raise SignInNeeded("Please sign in.")
    return session_id


# The id of the sign-in session that this browser uses.
BrowserSessionDep = Annotated[int, Depends(_browser_session)]


def _admin_apart(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> User:
    with look_session(engine) as session:
        return check_second_factor(request, allowed(signed_in_user(request, session, settings), ADMINS))


def _api_admin_apart(
    request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep
) -> User:
    with look_session(engine) as session:
        user = token_user(request, session, settings, bearer)
    if caller_of(request).token_id is not None:
        raise NotAllowed("This token is for some projects only.", "Use one that isn't narrowed to projects.")
    return allowed(user, ADMINS)


# As above, for admins.
AdminApartDep = Annotated[User, Depends(_admin_apart)]
ApiAdminApartDep = Annotated[User, Depends(_api_admin_apart)]


@dataclass(frozen=True)
class Browser:
    """A signed-in browser, looked up in a session that is over: for what works in sessions of its own."""

    user_id: int
    session_id: int


def _browser(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Browser:
    with look_session(engine) as session:
        user = check_second_factor(request, allowed(signed_in_user(request, session, settings), EVERYBODY))
    session_id = request_state.of(request).session_id
    assert session_id is not None  # a page's user always comes with one
    return Browser(user.id, session_id)


BrowserDep = Annotated[Browser, Depends(_browser)]
