"""The same pair again with more fields: what is new is filled in, what differs is named and stays as it was."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.models import Choice, Comparison, Project, Response, Slot
from app.services.collecting import counts, places
from app.services.collecting.imports.reading.outcome import Numbered, Outcome
from app.services.collecting.pairs import UNKNOWN, NewPair, Source, Stored

TURNED = {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST}


def fill(
    session: Session, *, project: Project, stored: Sequence[Stored], parsed: Sequence[Numbered], outcome: Outcome
) -> None:
    """Fills in fields of pairs that were there already."""
    again = [
        (number, at, one.pair)
        for at, (number, one) in zip(stored, parsed, strict=True)
        if not at.added and _says_more(one.pair)
    ]
    if not again:
        return
    rows = {
        row.id: row
        for row in session.scalars(
            select(Comparison).where(Comparison.id.in_({at.comparison_id for _, at, _ in again}))
        )
    }
    answers = {number for row in rows.values() for number in (row.first_response_id, row.second_response_id)}
    responses = {row.id: row for row in session.scalars(select(Response).where(Response.id.in_(answers)))}
    priorities: dict[int, int] = {}
    for number, at, pair in again:
        row = rows[at.comparison_id]
        changed = [
            _fill(row, name, value, number, outcome)
            for name, value in _fields(pair, at.swapped).items()
            if value not in (None, 0)
        ]
        if "priority" in changed:
            priorities[row.id] = row.priority
        counts.note(session, project_id=project.id, golds="gold_choice" in changed)
        sources = reversed(pair.sources) if at.swapped else pair.sources
        for source, response_id in zip(sources, (row.first_response_id, row.second_response_id), strict=True):
            changed.append(_fill_source(responses[response_id], source, number, outcome))
        outcome.filled += any(changed)
    session.flush()
    _reprioritise(session, project, priorities)


def _reprioritise(session: Session, project: Project, priorities: Mapping[int, int]) -> None:
    """Gives the slots of comparisons the priority that these now have, by their ids."""
    for comparison_id, priority in priorities.items():
        ordinals = session.scalars(select(Slot.ordinal).where(Slot.comparison_id == comparison_id)).all()
        for ordinal in ordinals:
            session.execute(
                update(Slot)
                .where(Slot.comparison_id == comparison_id, Slot.ordinal == ordinal)
                .values(priority=priority, place=places.place_of(priority, ordinal, comparison_id)),
                execution_options={"synchronize_session": False},
            )
    if priorities:
        counts.note(session, project_id=project.id, arrivals=1)


def _says_more(pair: NewPair) -> bool:
    return bool(pair.priority or pair.gold or pair.external_id or pair.arm or pair.sources != (UNKNOWN, UNKNOWN))


def _fields(pair: NewPair, swapped: bool) -> Mapping[str, Any]:
    gold = TURNED.get(pair.gold, pair.gold) if swapped and pair.gold else pair.gold
    return {"priority": pair.priority, "gold_choice": gold, "external_id": pair.external_id, "arm": pair.arm}


def _fill(row: Comparison, name: str, value: Any, number: int, outcome: Outcome) -> str:
    """The field's name where it was filled in."""
    stored = getattr(row, name)
    if stored == value:
        return ""
    if stored in (None, 0):
        setattr(row, name, value)
        return name
    outcome.differ(number, name, stored, value)
    return ""


def _fill_source(response: Response, source: Source, number: int, outcome: Outcome) -> str:
    if source == UNKNOWN or (response.source_kind, response.source_name) == (source.kind, source.name):
        return ""
    if not response.source_name:
        response.source_kind, response.source_name = source.kind, source.name
        return "source"
    outcome.differ(number, "source", response.source_name, source.name)
    return ""
