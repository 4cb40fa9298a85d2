"""The unit of work of a request, the settings, the store, and the note that a session or token was used."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.db import read_session, write_session, writing
from app.storage import Storage, get_storage
from app.web import request_state
from app.web.turns import ServerFull, Turns, client_of

log = logging.getLogger(__name__)

_bearer = HTTPBearer(auto_error=False, description="An API token from the account page or `prefloop token create`.")


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


async def note_use(request: Request) -> None:
    """After the reply: writes down that the session or token was used, if that is due (once a minute)."""
    due = request_state.of(request).note_use
    if due is None:
        return
    turns: Turns = request.app.state.turns
    try:
        async with turns.one(client_of(request.scope)):  # the request's own turn ended when its answer began
            await run_in_threadpool(_write, request.app.state.engine, due)
    except (SQLAlchemyError, ServerFull):  # an answered request doesn't fail over a note lost to a busy database
        log.warning("couldn't note the use of a session", exc_info=True)


async def _note_use(request: Request) -> AsyncIterator[None]:
    yield
    await note_use(request)


def _write(engine: Engine, change: Callable[[Session], None]) -> None:
    with write_session(engine) as session:
        change(session)


UseNoted = Annotated[None, Depends(_note_use)]
BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
