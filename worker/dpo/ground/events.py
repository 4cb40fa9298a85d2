"""Events of a run: JSON lines for programs, a progress bar for people at a terminal."""

import json
import math
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TextIO

from worker.dpo.ground.terminal import Terminal


class Event(StrEnum):
    """The kinds of events, as they stand in `event` on the wire."""

    STATE = "state"
    STEP = "step"
    EVAL = "eval"
    SAMPLE = "sample"
    LOG = "log"
    CHECKPOINT = "checkpoint"
    DONE = "done"
    ERROR = "error"


class EventWriter:
    """Writes the events of one run.

    `emit` prints one JSON object a line, flushed at once so that a reader sees it live, with `event`, `time` (unix
    seconds), `step` where there is one, and the fields. On a terminal it draws a progress line instead. With
    `enabled=False` (every process of a distributed run but the first) it does nothing.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        enabled: bool = True,
        rich: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._enabled = enabled
        self._clock = clock
        use_rich = self._stream.isatty() if rich is None else rich
        self._terminal = Terminal(self._stream) if use_rich and enabled else None

    def emit(self, event: Event, step: int | None = None, **fields: Any) -> None:
        """Write one event, of step `step` where it belongs to one. Raises ValueError for one that the contract doesn't name."""
        if event not in list(Event):
            raise ValueError(f"Unknown event {event!r}: use one of {', '.join(sorted(Event))}.")
        if not self._enabled:
            return
        if self._terminal is not None:
            self._terminal.show(event, step, fields)
            return
        record: dict[str, Any] = {"event": event, "time": round(self._clock(), 3)}
        if step is not None:
            record["step"] = step
        record.update(fields)
        self._stream.write(json.dumps(_finite(record), ensure_ascii=False, default=str) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal is not None:
            self._terminal.close()

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _finite(value: Any) -> Any:
    """The value with every NaN and infinity as None, since JSON has neither; tensors' scalars become numbers."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "item"):
        return _finite(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
