"""uvicorn's HTTP protocol with a deadline: a connection on which no request comes is closed.

uvicorn itself closes a connection that is idle between two requests, but waits for the first one, and for the rest of
one that began, as long as the client likes.
"""

import asyncio
from typing import Any

from app.config import get_settings

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
except ImportError:  # no wheel of httptools for this machine
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol  # type: ignore[assignment]


class PatientProtocol(Protocol):
    """Waits `client_seconds` for a request's headers, and after an answer as long for the rest of its request."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:  # a request is being answered
            self._forget()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(get_settings().client_seconds, self._close)

    def _forget(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
