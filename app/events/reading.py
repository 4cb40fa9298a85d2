"""Rows' data and what programs print, read into the dataclasses of app.events.types.

Nothing is refused and nothing is lost: a key that has no field, or whose value isn't of the field's type, stays in
`more` as it is. Programs may be of another version than ours, and rows of an earlier one.
"""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from app.events.types import (
    CheckpointSaved,
    Done,
    Evaluated,
    Event,
    Failed,
    Logged,
    PhaseReached,
    Sampled,
    StateChanged,
    StepTaken,
    names_of,
)
from app.models import EventType, JobEvent, JobState

CLASSES: Mapping[EventType, type[Event]] = {
    EventType.STATE: PhaseReached,  # StateChanged where there is a state
    EventType.STEP: StepTaken,
    EventType.EVAL: Evaluated,
    EventType.SAMPLE: Sampled,
    EventType.LOG: Logged,
    EventType.CHECKPOINT: CheckpointSaved,
    EventType.DONE: Done,
    EventType.ERROR: Failed,
}
FIELDS: Mapping[type[Event], Mapping[str, Any]] = {
    event: {name: get_type_hints(event)[name] for name in names_of(event)}
    for event in (*CLASSES.values(), StateChanged)
}


def of_row(row: JobEvent) -> Event:
    """What this row tells."""
    return of_data(row.type, row.data, step=row.step)


def of_rows(rows: Iterable[JobEvent]) -> list[Event]:
    return [of_row(row) for row in rows]


def of_printed(record: object) -> Event | None:
    """An object that a job's program printed; None if it isn't an event.

    Two keys are dropped: `state`, since a job's state is ours to tell, and `path`, since this machine's folders are
    nobody's business.
    """
    if not isinstance(record, dict) or record.get("event") not in list(EventType):
        return None
    step = record.get("step")
    data = {name: value for name, value in record.items() if name not in ("event", "step", "state", "path")}
    return of_data(EventType(record["event"]), data, step=step if _fits(step, int) else None)


def of_data(type: EventType, data: Mapping[str, Any], *, step: int | None = None) -> Event:
    """The event of this type with this data."""
    event = CLASSES[type]
    told = dict(data)
    if type is EventType.STATE and told.get("state") in list(JobState):
        event, told["state"] = StateChanged, JobState(told["state"])
    known = {name: told.pop(name) for name, hint in FIELDS[event].items() if name in told and _fits(told[name], hint)}
    return event(**known, step=step, more=told, order=tuple(data))


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is of the type. None fits nothing: it stays where it was printed. A bool isn't a number here."""
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is list:
        (of,) = get_args(hint)
        return isinstance(value, list) and all(_fits(one, of) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
