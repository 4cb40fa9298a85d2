"""Turns: a web process works on few requests at once, and whoever asks for much waits behind whoever asks for little.

A request that waits is a coroutine: it holds no thread and no database connection.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import Scope

from app import writer
from app.errors import Unavailable

WAITING = 2_000
SECONDS = 30.0
RETRY_SECONDS = 5


class ServerFull(Unavailable):
    code = "server_full"

    def __init__(self) -> None:
        super().__init__(
            "The server has more requests than it can answer.",
            "Nothing was changed. Try again in a moment.",
            retry_after=RETRY_SECONDS,
        )


class Turns:
    """`at_once` turns. Clients take them one after the other, each client's requests in their order.

    Used within one event loop. At most `waiting` requests wait, at most `seconds` long; beyond that the newest request
    of the client with the most of them gets ServerFull.
    """

    def __init__(self, at_once: int, *, waiting: int = WAITING, seconds: float = SECONDS) -> None:
        self.at_once = at_once
        self.most_waiting = waiting
        self.seconds = seconds
        self.free = at_once
        self.waiting = 0
        self._queues: OrderedDict[bytes, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def one(self, client: bytes) -> AsyncIterator[None]:
        await self.take(client)
        try:
            yield
        finally:
            self.give_back()

    async def take(self, client: bytes) -> bool:
        """Waits for a turn; whether it had to wait. Raises ServerFull."""
        if self.free:
            self.free -= 1
            writer.answering_begins()
            return False
        if self.waiting >= self.most_waiting:
            self._make_room(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.seconds):
                await turn
        except TimeoutError:
            self._leave(client, turn)
            raise ServerFull from None
        except asyncio.CancelledError:
            self._leave(client, turn)
            raise
        return True

    def give_back(self) -> None:
        """The turn goes to the client that had none for the longest time."""
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            self.waiting -= 1
            if queue:
                self._queues.move_to_end(client)
            else:
                del self._queues[client]
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1
        writer.answering_ends()

    def _leave(self, client: bytes, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(client, ())
        if turn in queue:
            self._remove(client, turn)
        elif not turn.cancelled():  # it was given in the moment in which its owner went away
            self.give_back()

    def _make_room(self, client: bytes) -> None:
        longest = max(self._queues, key=lambda one: len(self._queues[one]))
        if len(self._queues[longest]) <= len(self._queues.get(client, ())) + 1:
            raise ServerFull
        turn = self._queues[longest][-1]
        self._remove(longest, turn)
        if not turn.done():
            turn.set_exception(ServerFull())

    def _remove(self, client: bytes, turn: asyncio.Future[None]) -> None:
        queue = self._queues[client]
        queue.remove(turn)
        self.waiting -= 1
        if not queue:
            del self._queues[client]


def client_of(scope: Scope) -> bytes:
    """Whom a request counts for: who has the token or cookie, else the address that it came from."""
    headers = Headers(scope=scope)
    address = scope["client"][0] if scope.get("client") else ""
    return (headers.get("authorization") or headers.get("cookie") or address).encode()
