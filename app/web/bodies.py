"""Bodies of requests: how long a client may take to send one, and how many imports are read at once."""

import asyncio
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

from fastapi import Depends, Request
from starlette.types import Message, Receive

from app.errors import PrefloopError, TooMany

RETRY_SECONDS = 30
LEAST_BYTES_PER_SECOND = 1_000  # of an import, once the client was waited for longer than a silence may be


class SlowBody(PrefloopError):
    status = 408
    code = "request_timeout"

    def __init__(self) -> None:
        super().__init__(
            "The request came too slowly to wait for its end.",
            "Send it again over a faster connection, or a smaller one.",
            retry_after=RETRY_SECONDS,
        )


class TooManyImports(TooMany):
    code = "too_many_imports"


async def whole_body(receive: Receive, *, seconds: float) -> bytes | None:
    """The body, all of it; None where the client went away. Raises SlowBody."""
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunks.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise SlowBody from None


def impatient(receive: Receive, *, seconds: float) -> Receive:
    """A long body's chunks: SlowBody after a silence of so many seconds, or where they come as drops.

    Only time spent waiting for the client counts, not what the server takes to store what came.
    """
    waited = 0.0
    received = 0

    async def chunk() -> Message:
        nonlocal waited, received
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError:
            raise SlowBody from None
        waited += time.monotonic() - began
        received += len(message.get("body", b""))
        if message.get("more_body") and waited > seconds and received < waited * LEAST_BYTES_PER_SECOND:
            raise SlowBody
        return message

    return chunk


class ImportPlaces:
    """How many imports are read at once: some for each person, and all together, by all web processes of this machine.

    A place is a lock on a file in the data folder. It ends with its process, however that ends.
    """

    def __init__(self, folder: Path, *, each: int = 2, together: int = 8) -> None:
        self.folder = folder
        self.each = each
        self.together = together

    def take(self, user_id: int) -> Callable[[], None]:
        """A place. What is returned gives it back, from any thread. Raises TooManyImports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = self._free(f"person-{user_id}", self.each)
        if own is None:
            raise TooManyImports(
                f"{self.each} imports of yours are being read already.",
                "Send the next one when one of them is done.",
                retry_after=RETRY_SECONDS,
            )
        shared = self._free("all", self.together)
        if shared is None:
            own.close()
            raise TooManyImports(
                f"The server is reading {self.together} imports already.",
                "Send this one again in a while.",
                retry_after=RETRY_SECONDS,
            )

        def give_back() -> None:
            own.close()
            shared.close()

        return give_back

    def _free(self, name: str, places: int) -> IO[bytes] | None:
        """The first place of that name that nobody holds. Closing the file gives it back."""
        for number in range(places):
            place = (self.folder / f"{name}-{number}").open("ab")
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                place.close()
            else:
                return place
        return None


def _places(request: Request) -> ImportPlaces:
    places: ImportPlaces = request.app.state.import_places
    return places


ImportPlacesDep = Annotated[ImportPlaces, Depends(_places)]
