"""What routes ask for: the unit of work, the settings, the store, and a person with the role they need."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.db import read_session, write_session, writing
from app.errors import NotAllowed, SignInNeeded
from app.models import ApiToken, Role, User, UserSession
from app.security import cookie_name
from app.services.accounts import sessions, tokens
from app.storage import Storage, get_storage
from app.web import request_state
from app.web.request_state import Viewer
from app.web.turns import ServerFull, Turns, client_of

log = logging.getLogger(__name__)

_bearer = HTTPBearer(auto_error=False, description="An API token from the account page or `prefloop token create`.")
EVERYBODY = frozenset(Role)
ENGINEERS = frozenset({Role.ENGINEER, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})


async def _settings(request: Request) -> Settings:
    return request.app.state.settings


async def _engine(request: Request) -> Engine:
    return request.app.state.engine


# The largest id that both databases hold; a larger one in an address is an error of the caller's.
RowId = Annotated[int, Path(ge=1, le=2**31 - 1)]
SettingsDep = Annotated[Settings, Depends(_settings)]
EngineDep = Annotated[Engine, Depends(_engine)]


async def _storage(settings: SettingsDep) -> Storage:
    return get_storage(settings)


StorageDep = Annotated[Storage, Depends(_storage)]


def client_address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _marked(request: Request) -> AsyncIterator[None]:
    """Marks a request that writes. Not in a thread: what a thread sets in its context, the other threads don't see."""
    if request.method in ("GET", "HEAD"):
        yield
        return
    with writing():
        yield


def _session(
    request: Request, engine: EngineDep, _: Annotated[None, Depends(_marked, scope="function")]
) -> Iterator[Session]:
    scope = read_session if request.method in ("GET", "HEAD") else write_session
    with scope(engine) as session:
        session.info["address"] = client_address(request)
        yield session


# `function`: the commit comes before the reply, so nobody is told of work that was then lost, and a
# streamed reply holds no connection.
SessionDep = Annotated[Session, Depends(_session, scope="function")]


async def _note_use(request: Request, engine: EngineDep) -> AsyncIterator[None]:
    """After the reply: writes down that the session or token was used, if that is due (once a minute)."""
    yield
    due = request_state.of(request).note_use
    if due is None:
        return
    turns: Turns = request.app.state.turns
    try:
        async with turns.one(client_of(request.scope)):  # the request's own turn ended when its answer began
            await run_in_threadpool(_write, engine, due)
    except (SQLAlchemyError, ServerFull):  # an answered request doesn't fail over a note lost to a busy database
        log.warning("couldn't note the use of a session", exc_info=True)


def _write(engine: Engine, change: Callable[[Session], None]) -> None:
    with write_session(engine) as session:
        change(session)


UseNoted = Annotated[None, Depends(_note_use)]
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def signed_in_user(request: Request, session: Session, settings: Settings) -> User | None:
    """The user of the request's session cookie, if that session lives; the request's state then knows them too."""
    token = request.cookies.get(cookie_name(settings))
    row = sessions.find(session, token=token, settings=settings) if token else None
    if row is None or token is None:
        return None
    state = request_state.of(request)
    state.viewer = viewer = Viewer.of(row.user)
    state.session_id = row.id
    state.still_in = lambda later: _is_still(sessions.find(later, token=token, settings=settings), viewer)
    if sessions.is_stale(row):
        state.note_use = lambda later: sessions.touch(later, session_id=row.id, settings=settings)
    return row.user


def _token_user(
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
    state.still_in = lambda later: _is_still(tokens.find(later, token=bearer.credentials, settings=settings), viewer)
    if tokens.is_stale(row):
        state.note_use = lambda later: tokens.touch(later, token_id=row.id)
    return row.user


def _is_still(row: UserSession | ApiToken | None, viewer: Viewer) -> bool:
    """Whether the session or token still lives with the same role: asked again while a long answer is sent."""
    return row is not None and row.user.role == viewer.role


def _looked_up(
    request: Request, session: Session, engine: Engine, look: Callable[[Session], User | None]
) -> User | None:
    """The user that `look` finds, as a row of `session`. A request that writes looks in a session of its own, which is
    over at once: who may write isn't a reason to keep others from writing."""
    if request.method in ("GET", "HEAD"):
        return look(session)
    with read_session(engine) as looking:
        user = look(looking)
    return user and session.merge(user, load=False)


def _maybe_user(
    request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted
) -> User | None:
    return _looked_up(request, session, engine, lambda looking: signed_in_user(request, looking, settings))


MaybeUserDep = Annotated[User | None, Depends(_maybe_user)]


def _api_user(
    request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep
) -> User | None:
    return _looked_up(request, session, engine, lambda looking: _token_user(request, looking, settings, bearer))


def _page_guard(roles: frozenset[Role]) -> Callable[..., Awaitable[User]]:
    async def user_with_role(user: MaybeUserDep) -> User:
        return _allowed(user, roles)

    return user_with_role


def _api_guard(roles: frozenset[Role]) -> Callable[..., Awaitable[User]]:
    async def api_user_with_role(user: Annotated[User | None, Depends(_api_user)]) -> User:
        return _allowed(user, roles)

    return api_user_with_role


def _allowed(user: User | None, roles: frozenset[Role]) -> User:
    if user is None:
        raise SignInNeeded("Please sign in.")
    if user.role not in roles:
        needed = "admins" if roles == ADMINS else "engineers and admins"
        raise NotAllowed(
            f"This is for {needed}; you are signed in as {user.role.value}.", "An admin can change your role."
        )
    return user


def _uploader(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Viewer:
    """Looked up in a session that is over before the body is read: an upload may take minutes, and SQLite has one
    writer at a time."""
    with read_session(engine) as session:
        return Viewer.of(_allowed(signed_in_user(request, session, settings), ENGINEERS))


def _api_uploader(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep) -> Viewer:
    with read_session(engine) as session:
        return Viewer.of(_allowed(_token_user(request, session, settings, bearer), ENGINEERS))


UserDep = Annotated[User, Depends(_page_guard(EVERYBODY))]
EngineerDep = Annotated[User, Depends(_page_guard(ENGINEERS))]
AdminDep = Annotated[User, Depends(_page_guard(ADMINS))]
UploaderDep = Annotated[Viewer, Depends(_uploader)]
WatcherDep = UploaderDep  # a stream too: hundreds of pages that come again at once are to cost little
ApiUserDep = Annotated[User, Depends(_api_guard(EVERYBODY))]
ApiEngineerDep = Annotated[User, Depends(_api_guard(ENGINEERS))]
ApiAdminDep = Annotated[User, Depends(_api_guard(ADMINS))]
ApiUploaderDep = Annotated[Viewer, Depends(_api_uploader)]


async def _browser_session(request: Request, _: UserDep) -> int:
    session_id = request_state.of(request).session_id
    if session_id is None:  # a page's user always comes with one
        raise SignInNeeded("Please sign in.")
    return session_id


# The id of the sign-in session that this browser uses.
BrowserSessionDep = Annotated[int, Depends(_browser_session)]


@dataclass(frozen=True)
class Browser:
    """A signed-in browser, looked up in a session that is over: for what works in sessions of its own."""

    user_id: int
    session_id: int


def _browser(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Browser:
    with read_session(engine) as session:
        user = _allowed(signed_in_user(request, session, settings), EVERYBODY)
    session_id = request_state.of(request).session_id
    assert session_id is not None  # a page's user always comes with one
    return Browser(user.id, session_id)


BrowserDep = Annotated[Browser, Depends(_browser)]


@dataclass(frozen=True)
class Work:
    """A signed-in person's request, done in one thread from the look-up to the page: each hop to another thread waits for it."""

    request: Request
    engine: Engine
    settings: Settings

    @contextmanager
    def writing(self) -> Iterator[tuple[Session, User]]:
        """(the unit of work, who asks). Committed at its end: render what it gives after that."""
        with read_session(self.engine) as looking:
            user = _allowed(signed_in_user(self.request, looking, self.settings), EVERYBODY)
        with write_session(self.engine) as session:
            session.info["address"] = client_address(self.request)
            session.add(user)  # the session that found them is over
            yield session, user


async def _work(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Work:
    return Work(request, engine, settings)


WorkDep = Annotated[Work, Depends(_work)]
