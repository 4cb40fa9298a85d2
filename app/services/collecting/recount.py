"""Counting anew: whether the kept counts are right, and making them so. Reads all slots and judgments."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, exists, func, literal_column, select, text
from sqlalchemy.orm import Session, aliased

from app.models import (
    Comparison,
    Evaluation,
    EvaluationState,
    EvaluatorCount,
    Judgment,
    JudgmentSource,
    ProjectCount,
    Prompt,
    Slot,
    SlotState,
    Split,
)
from app.services.collecting import counts
from app.services.collecting.counts import OF_EVALUATOR, OF_PROJECT

OPEN = aliased(Slot)
NOBODY: ColumnElement[int] = literal_column("0", Integer)
SUMS = ("offered", "judged")  # of a project's row and those of its evaluators
COUNTED = tuple(name for name in OF_PROJECT if name != "arrivals")
COUNTED_OF_ONE = tuple(name for name in OF_EVALUATOR if name not in SUMS)


@dataclass(frozen=True, slots=True)
class Wrong:
    """A kept count that isn't what counting gives. `user_id` is 0 for the project's own."""

    project_id: int
    user_id: int
    name: str
    kept: int
    counted: int


def at_one_moment(session: Session) -> None:
    """Makes every look of a fresh read session see the same state, as SQLite does anyway. A check needs it."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


def hold_still(session: Session) -> None:
    """Lets no slot and no judgment change until this transaction ends. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE slots, judgments IN EXCLUSIVE MODE"))


def check(session: Session, *, project_id: int | None = None) -> list[Wrong]:
    """What is kept wrongly, of one project or of all. Call `at_one_moment` or `hold_still` before."""
    return [
        Wrong(project, user_id, name, kept.get(name, 0), counted[name])
        for project, user_id, kept, counted in _pairs(session, project_id)
        for name in counted
        if kept.get(name, 0) != counted[name]
    ]


def repair(session: Session, *, project_id: int | None = None) -> list[Wrong]:
    """Makes the kept counts what counting gives, and returns which were wrong. Call `hold_still` before any change."""
    counts.write(session)
    wrong = check(session, project_id=project_id)
    for one in wrong:
        change = {one.name: one.counted - one.kept}
        counts.note(session, project_id=one.project_id, user_id=one.user_id or None, **change)
    counts.write(session)
    return wrong


def _pairs(session: Session, project_id: int | None) -> Iterator[tuple[int, int, dict[str, int], dict[str, int]]]:
    """(project, person or 0, the kept counts, what counting gives) of every row that there is or should be."""
    kept: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
    counted: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
    for names, rows in _kept(session, project_id):
        for project, user_id, *values in rows:
            kept[project, user_id] |= dict(zip(names, values, strict=True))
    for names, rows in _counted(session, project_id):
        for project, user_id, *values in rows:
            counted[project, user_id or 0] |= dict(zip(names, values, strict=True))
    for (project, user_id), row in list(kept.items()):
        if user_id:
            whole = kept[project, 0]
            for name in SUMS:
                whole[name] = whole.get(name, 0) + row[name]
    for key in sorted(kept.keys() | counted.keys()):
        row = counted[key]
        if not key[1]:
            row["judged"] = row.get("comparisons", 0) - row.pop("waiting", 0)
        names = COUNTED_OF_ONE if key[1] else COUNTED
        yield *key, kept[key], {name: row.get(name, 0) for name in names}


Rows = tuple[tuple[str, ...], Any]


def _kept(session: Session, project_id: int | None) -> Iterator[Rows]:
    project = _of(
        select(ProjectCount.project_id, NOBODY, *(getattr(ProjectCount, name) for name in COUNTED)), project_id
    )
    yield COUNTED, session.execute(project)
    person = select(
        EvaluatorCount.project_id, EvaluatorCount.user_id, *(getattr(EvaluatorCount, name) for name in OF_EVALUATOR)
    )
    yield OF_EVALUATOR, session.execute(_of(person, project_id))


def _counted(session: Session, project_id: int | None) -> Iterator[Rows]:
    is_current, is_ordinary = ~Judgment.superseded, Slot.evaluation_id.is_(None)
    statements: tuple[tuple[tuple[str, ...], Any], ...] = (
        (
            ("comparisons", "golds", "evals"),
            select(
                Comparison.project_id,
                NOBODY,
                func.count(),
                func.count(Comparison.gold_choice),
                func.count().filter(Prompt.split == Split.EVAL),
            )
            .join(Prompt, Prompt.id == Comparison.prompt_id)
            .where(Comparison.evaluation_id.is_(None))
            .group_by(Comparison.project_id),
        ),
        (
            ("wanted", "offered", "waiting"),
            select(
                Slot.project_id,
                NOBODY,
                func.count(),
                func.count(Slot.comparison_id.distinct()).filter(Slot.state == SlotState.OPEN, is_ordinary),
                func.count(Slot.comparison_id.distinct()).filter(Slot.state != SlotState.DONE, is_ordinary),
            ).group_by(Slot.project_id),
        ),
        (
            ("asking",),
            select(Evaluation.project_id, NOBODY, func.count())
            .where(Evaluation.state == EvaluationState.ASKING)
            .group_by(Evaluation.project_id),
        ),
        (
            ("stored", "judgments", "imported"),
            select(
                Judgment.project_id,
                Judgment.user_id,
                func.count(),
                func.count().filter(is_current),
                func.count().filter(is_current, Judgment.source == JudgmentSource.IMPORT),
            ).group_by(Judgment.project_id, Judgment.user_id),
        ),
        (
            ("done",),
            select(Slot.project_id, Slot.holder_id, func.count())
            .where(Slot.state == SlotState.DONE)
            .group_by(Slot.project_id, Slot.holder_id),
        ),
        (
            ("known_offered",),
            select(Judgment.project_id, Judgment.user_id, func.count(Judgment.comparison_id.distinct()))
            .where(
                exists().where(
                    OPEN.comparison_id == Judgment.comparison_id,
                    OPEN.state == SlotState.OPEN,
                    OPEN.evaluation_id.is_(None),
                )
            )
            .group_by(Judgment.project_id, Judgment.user_id),
        ),
    )
    for names, statement in statements:
        yield names, session.execute(_of(statement, project_id))


def _of(statement: Select[Any], project_id: int | None) -> Select[Any]:
    return statement if project_id is None else statement.where(statement.selected_columns[0] == project_id)
