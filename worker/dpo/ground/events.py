"""Events of a run: JSON lines for programs, a Rich progress line for people at a terminal."""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVENTS = frozenset({"state", "step", "eval", "sample", "log", "checkpoint", "done", "error"})


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
        self._terminal = _Terminal(self._stream) if use_rich and enabled else None

    def emit(self, event: str, step: int | None = None, **fields: Any) -> None:
        """Write one event. Raises ValueError for an event that the contract doesn't name."""
        if event not in EVENTS:
            raise ValueError(f"Unknown event {event!r}: use one of {', '.join(sorted(EVENTS))}.")
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


class _Terminal:
    """One progress bar that follows the run, with lines of note above it."""

    METRICS = ("loss", "rewards/margins", "rewards/accuracies")

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def show(self, event: str, step: int | None, fields: dict[str, Any]) -> None:
        if event == "state":
            self._bar(str(fields.get("stage", fields.get("state", ""))), fields.get("total_steps"), step)
        elif event == "step":
            self._bar(None, fields.get("total_steps"), step, self._summary(fields))
        elif event == "eval":
            self._say(f"eval at step {step}: {self._summary(fields, 'eval_')}")
        elif event == "sample":
            self._say(f"sample at step {step}: {fields.get('completion', fields.get('text', ''))}")
        elif event == "error":
            self._say(f"error: {fields.get('message', fields)}", style="bold red")
        elif event == "done":
            self.close()
            self._say("done " + self._plain(fields))
        else:
            self._say(str(fields.get("message", self._plain(fields))))

    def _bar(self, description: str | None, total: int | None, step: int | None, metrics: str | None = None) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(description or "", total=total, metrics="")
        changes: dict[str, Any] = {"description": description, "total": total, "completed": step}
        self._progress.update(self._task, **{key: item for key, item in changes.items() if item is not None})
        if metrics is not None:
            self._progress.update(self._task, metrics=metrics)

    def _summary(self, fields: dict[str, Any], prefix: str = "") -> str:
        found = ((name, fields.get(prefix + name, fields.get(name))) for name in self.METRICS)
        return escape(" ".join(f"{name} {value:.4f}" for name, value in found if isinstance(value, float)))

    @staticmethod
    def _plain(fields: dict[str, Any]) -> str:
        return " ".join(f"{key}={value}" for key, value in fields.items() if not isinstance(value, dict | list))

    def _say(self, text: str, style: str | None = None) -> None:
        # Without markup: the text may hold a model's own words in brackets.
        self._console.print(text, style=style, markup=False, highlight=False)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._task = None
