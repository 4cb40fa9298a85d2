"""What the program says on standard output: the events of worker.kinds.kind, one JSON object a line."""

import json
import threading
import time
from typing import Any

SECONDS_BETWEEN = 1.0


class Failed(Exception):
    """A source that can't be asked further. `reason` is a stable code; `code` the program's exit code."""

    def __init__(self, reason: str, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.reason, self.message, self.code = reason, message, code


class Stopped(Exception):
    """SIGTERM came: what arrived is written."""


class Progress:
    """How many answers are there, of all that are wanted. Steps are told at most once a second."""

    def __init__(self, known: int, wanted: int) -> None:
        self.known, self.wanted, self._there = known, wanted, known
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def say(self, event: str, **fields: Any) -> None:
        with self._lock:
            print(json.dumps({"event": event, "time": round(time.time(), 3), **fields}, ensure_ascii=False), flush=True)

    def there(self, count: int, *, last: bool = False) -> None:
        """So many answers have arrived by now."""
        now = time.monotonic()
        if count <= self._there and not last:
            return
        self._there = max(self._there, count)
        if not last and now - self._told < SECONDS_BETWEEN:
            return
        self._told = now
        made = self._there - self.known
        eta = (self.wanted - self._there) * (now - self._began) / made if made else None
        more = {} if eta is None else {"eta_seconds": round(eta, 1)}
        self.say("step", step=self._there, total_steps=self.wanted, **more)
