"""What an event tells, a dataclass for each sort. Rows keep them by `data`; app.events.reading makes them from it.

Names and order of the fields are those of the wire (the API's JSON, the engine's output), so both are contract.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

from app.models import EventType, JobState

EVAL_PREFIX = "eval_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have. A field is None where nothing was said of it.

    `time`: unix seconds by the clock of the program that printed it. `more`: what it printed beside the fields.
    `order`: the names in the order in which it printed them.
    """

    type: ClassVar[EventType]

    step: int | None = None
    time: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def data(self) -> dict[str, Any]:
        """The fields that have a value, and `more`: what the row keeps and the wire shows."""
        told = {name: value for name in names_of(type(self)) if (value := getattr(self, name)) is not None}
        told = {name: value.value if isinstance(value, Enum) else value for name, value in told.items()}
        told |= self.more
        return {name: told[name] for name in dict.fromkeys((*self.order, *told)) if name in told}

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """The numbers of `more` whose names begin with `prefix`, which is taken off."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.more.items()
            if name.startswith(prefix) and isinstance(value, int | float) and not isinstance(value, bool)
        }


def names_of(event: type[Event]) -> tuple[str, ...]:
    """The fields that stand in an event's `data`, in the order of the wire."""
    return tuple(one.name for one in fields(event) if one.name not in ("step", "more", "order"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The job is in another state. `kept`: what a run that was broken off can go on from."""

    type = EventType.STATE

    state: JobState
    worker: str | None = None
    attempt: int | None = None
    reason: str | None = None
    retried_by: str | None = None
    kept: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReached(Event):
    """What the program does now (`stage`), and how far it is with it."""

    type = EventType.STATE

    stage: str | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken(Event):
    """One step. Its metrics are in `more`, by the names that the engine gives them."""

    type = EventType.STEP

    total_steps: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The evaluation split was scored. The metrics are in `more`; their names begin with `eval_`."""

    type = EventType.EVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Event):
    """The model answered a prompt: text, or messages with role and content. `phase`: before, during or after training.

    `ended`: by itself, not by the limit on an answer's length. The first release didn't say.
    """

    type = EventType.SAMPLE

    phase: str | None = None
    decoding: str | None = None
    temperature: float | None = None
    prompt: str | list[dict[str, Any]] | None = None
    completion: str | None = None
    ended: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Event):
    """A line of the log. `level`: info where there is none.

    `fused_layers`: said once, when the engine begins. `dtype` and `why`: what it computes in, and what decided that.
    """

    type = EventType.LOG

    message: str | None = None
    level: str | None = None
    fused_layers: bool | None = None
    dtype: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A result was stored, with an id, a number of files and their size in bytes; or the engine wrote a folder of a `kind`."""

    type = EventType.CHECKPOINT

    checkpoint_id: int | None = None
    name: str | None = None
    files: int | None = None
    size: int | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Event):
    """The program ended well. Its closing figures are in `more`."""

    type = EventType.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """Why the job failed: `code` for scripts, what is kept, the last lines; a program gives its `reason` and exit code."""

    type = EventType.ERROR

    code: str | None = None
    reason: str | None = None
    message: str | None = None
    kept: str | None = None
    lines: list[str] | None = None
    exit_code: int | None = None
