"""Admission: a request gets a turn when its body is here, and gives it back when its answer begins.

All database work of a request is done with a turn. There are fewer turns than threads and connections, so whoever
holds a connection, a lock or the right to write always finds a thread to go on with: requests can't wait for each
other in a circle. `docs/decisions/015-admission.md` has the whole argument.
"""

import re

import anyio
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.web.bodies import impatient, whole_body
from app.web.failures import respond_at_once
from app.web.turns import ServerFull, Turns, client_of

IMPORT = re.compile(r"(/api/v1)?/projects/[^/]+/import")
# These do nothing in the database, or one short look that can't wait for anybody.
FREE = ("/static/", "/healthz", "/readyz")


class Admission:
    """Innermost: what is inside works with a turn. An import is let through; its route counts imports instead."""

    def __init__(self, app: ASGIApp, settings: Settings, turns: Turns) -> None:
        self.app = app
        self.turns = turns
        self.seconds = settings.client_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(FREE):
            await self.app(scope, receive, send)
        elif is_import(scope):
            await self.app(scope, impatient(receive, seconds=self.seconds), send)
        else:
            body = await whole_body(receive, seconds=self.seconds)
            if body is not None:
                await self._admit(scope, body, receive, send)

    async def _admit(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        try:
            waited = await self.turns.take(client_of(scope))
        except ServerFull as full:
            response = respond_at_once(Request(scope, receive), full)
            await response(scope, receive, send)
            return
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self.turns.give_back()

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                give_back()  # a slow reader, a download or a stream holds nothing
            await send(message)

        try:
            if not (waited and await _is_gone(receive)):
                await self.app(scope, _replayed(body, receive), answering)
        finally:
            give_back()


def is_import(scope: Scope) -> bool:
    """Whether the request brings a file to import, which may be large and may take minutes."""
    return scope["method"] == "POST" and IMPORT.fullmatch(scope["path"]) is not None


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_due = True

    async def replay() -> Message:
        nonlocal is_due
        if is_due:
            is_due = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _is_gone(receive: Receive) -> bool:
    """Whether the client left while it waited. Asks without waiting: after the body nothing else can come."""
    with anyio.CancelScope() as now:
        now.cancel()
        message = await receive()
        return bool(message["type"] == "http.disconnect")
    return False
