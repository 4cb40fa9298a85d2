"""Rows that nothing names any more, by whatever foreign keys there are: a new table needs no word here."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, delete, exists, false, or_, select
from sqlalchemy.orm import Session

from app.models import Base, Comparison, Prompt, PromptGroup, PromptKey, Slot
from app.services.collecting.duplicates.near import wordings

Keys = Mapping[int, Collection[int]]  # what each prompt is filed under
UNMATCHED = {"synchronize_session": False}


def is_named(model: type[Base], *, but: Iterable[type[Base]] = ()) -> ColumnElement[bool]:
    """Whether a row of another table names this row; `but` of these tables, and of slots, which go with a pair."""
    left_out = {Slot.__tablename__, *(one.__tablename__ for one in but)}
    key = cast(Table, model.__table__).c.id
    naming = [
        exists().where(column == key).correlate(model)
        for table in Base.metadata.sorted_tables
        if table.name not in left_out
        for column in table.columns
        if any(foreign.column is key for foreign in column.foreign_keys)
    ]
    return or_(false(), *naming)


def drop(session: Session, model: type[Any], ids: Collection[int]) -> None:
    """Removes those of these rows that nothing names."""
    key = cast(Table, model.__table__).c.id
    session.execute(delete(model).where(key.in_(ids), ~is_named(model)), execution_options=UNMATCHED)


def prompt_keys(session: Session, comparison_ids: Collection[int]) -> Keys:
    """What the prompts of these comparisons may be filed under. Not within a write transaction: it hashes texts."""
    asked = select(Prompt.id, Prompt.messages).where(
        Prompt.id.in_(select(Comparison.prompt_id).where(Comparison.id.in_(comparison_ids)))
    )
    rows = session.execute(asked).all()
    worded = wordings([row.messages for row in rows])
    return {row.id: {one.whole, *one.sketch} for row, one in zip(rows, worded, strict=True)}


def drop_prompts(session: Session, project_id: int, ids: Collection[int], keys: Keys) -> None:
    """Removes those of these prompts that nothing names, what they are filed under, and groups that are empty then."""
    rows = session.execute(select(Prompt.id, Prompt.group_id).where(Prompt.id.in_(ids), ~is_named(Prompt))).all()
    gone = [row.id for row in rows]
    filed = {key for number in gone for key in keys.get(number, ())}
    for table, where in (
        (
            PromptKey,
            (PromptKey.project_id == project_id) & PromptKey.key.in_(filed) & PromptKey.prompt_id.in_(gone),
        ),
        (Prompt, Prompt.id.in_(gone)),
    ):
        session.execute(delete(table).where(where), execution_options=UNMATCHED)
    drop(session, PromptGroup, {row.group_id for row in rows if row.group_id is not None})
