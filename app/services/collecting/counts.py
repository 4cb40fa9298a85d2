"""Kept counts: no page, and no judgment, costs more because a project is larger.

A change is noted by the service that makes it (`note`) and written by the transaction's last statements, in one order of rows, so
that nobody holds a row while they wait for something else. Most changes are to the row of the person who judges: rows that
everybody writes would make people wait for each other. A project's figures are sums over those rows.

What is noted and not yet written is part of the figures that the same transaction reads.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Integer, TextClause, bindparam, case, event, func, select, text
from sqlalchemy.orm import Session, SessionTransaction

from app.db import connection_of, is_within
from app.models import EvaluatorCount, Judgment, Project, ProjectCount, SlotState
from app.models.base import UTCDateTime

PENDING = "counts"  # in session.info: [(transaction, project, person or None, changes)]
OF_PROJECT = ("comparisons", "golds", "evals", "wanted", "offered", "judged", "arrivals", "asking")
OF_EVALUATOR = ("stored", "judgments", "imported", "done", "known_offered", "offered", "judged")
REACHED = ("place", "place_arrivals", "reopened_until")  # replaced where given, while the others are added to
Changes = dict[str, Any]
Standing = Mapping[int, Sequence[tuple[SlotState, int | None]]]  # (state, holder) of the slots of each comparison


def _upsert(table: str, key: tuple[str, ...], added: tuple[str, ...], replaced: tuple[str, ...] = ()) -> TextClause:
    """The same words on both databases."""
    names = (*key, *added, *replaced)
    changes = [f"{name} = {table}.{name} + excluded.{name}" for name in added]
    changes += [f"{name} = COALESCE(excluded.{name}, {table}.{name})" for name in replaced]
    return text(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(changes)}"
    )


ADD_TO_PROJECT = _upsert("project_counts", ("project_id",), OF_PROJECT)
ADD_TO_EVALUATOR = _upsert("evaluator_counts", ("project_id", "user_id"), OF_EVALUATOR, REACHED).bindparams(
    bindparam("reopened_until", type_=UTCDateTime())
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a project: `comparisons` (`golds` and `evals` of these), slots `wanted` and `done`, comparisons that are `offered` (a slot
    is open) or `judged` (no slot waits), current `judgments`, and all that were ever `stored`. Of one person: `mine`,
    current judgments that weren't imported, and `known_offered`, offered comparisons that they have judged.

    Slots and judgments of evaluations are among `wanted`, `done`, `judgments`, `stored` and `mine`, or these would tell them apart;
    their comparisons are nowhere. `asking`: evaluations that ask now."""

    comparisons: int = 0
    golds: int = 0
    evals: int = 0
    wanted: int = 0
    offered: int = 0
    judged: int = 0
    done: int = 0
    judgments: int = 0
    stored: int = 0
    mine: int = 0
    known_offered: int = 0
    asking: int = 0


def _sum(column: Any) -> Any:
    return func.coalesce(func.sum(column), 0)


def _own(column: Any) -> Any:
    return _sum(case((EvaluatorCount.user_id == bindparam("user", type_=Integer), column), else_=0))


FIGURES = (
    select(
        Project.id,
        *(func.coalesce(getattr(ProjectCount, name), 0) for name in ("comparisons", "golds", "evals", "wanted")),
        *(
            func.coalesce(getattr(ProjectCount, name), 0) + _sum(getattr(EvaluatorCount, name))
            for name in ("offered", "judged")
        ),
        *(_sum(getattr(EvaluatorCount, name)) for name in ("done", "judgments", "stored")),
        _own(EvaluatorCount.judgments - EvaluatorCount.imported),
        _own(EvaluatorCount.known_offered),
        func.coalesce(ProjectCount.asking, 0),
    )
    .outerjoin(ProjectCount, ProjectCount.project_id == Project.id)
    .outerjoin(EvaluatorCount, EvaluatorCount.project_id == Project.id)
    .group_by(Project.id, ProjectCount.project_id)
)
OF_ONE = FIGURES.where(Project.id == bindparam("project", type_=Integer))


def figures(session: Session, *, project_id: int, user_id: int = 0) -> Figures:
    """A project's kept counts, and one person's in it."""
    row = connection_of(session).execute(OF_ONE, {"project": project_id, "user": user_id}).one_or_none()
    return with_pending(session, row, user_id) if row else Figures()


def by_project(session: Session, *, user_id: int = 0) -> dict[int, Figures]:
    """The same of every project, by its id."""
    rows = connection_of(session).execute(FIGURES, {"user": user_id})
    return {row[0]: with_pending(session, row, user_id) for row in rows}


def note(session: Session, *, project_id: int, user_id: int | None = None, **changes: Any) -> None:
    """Notes what this transaction changes: names of OF_PROJECT without a person, of OF_EVALUATOR and REACHED with one."""
    changes = {name: change for name, change in changes.items() if change}
    if changes:
        noted = (session.get_nested_transaction() or session.get_transaction(), project_id, user_id, changes)
        session.info.setdefault(PENDING, []).append(noted)


def note_offers(
    session: Session, *, project_id: int, user_id: int | None, opened: Collection[int], closed: Collection[int]
) -> None:
    """Notes that this person's doing (None: nobody's) gave comparisons their first open slot, or took their last one: for the
    project, and for everybody who has judged them. Call it before a judgment of this person's is added."""
    note(session, project_id=project_id, user_id=user_id, offered=len(opened) - len(closed))
    for comparison_ids, sign in ((opened, 1), (closed, -1)):
        if comparison_ids:
            for knower, known in _knowers(session, comparison_ids):
                note(session, project_id=project_id, user_id=knower, known_offered=sign * known)


def note_slots(session: Session, *, project_id: int, before: Standing, after: Standing) -> None:
    """Notes what the slots of comparisons were and are now. A comparison that isn't in `after` is about to go; its judgments must
    still be there."""
    done = Counter(holder for slots in before.values() for state, holder in slots if state is SlotState.DONE)
    done.subtract(holder for slots in after.values() for state, holder in slots if state is SlotState.DONE)
    for user_id, fewer in done.items():
        note(session, project_id=project_id, user_id=user_id, done=-fewer)
    wanted = sum(map(len, after.values())) - sum(map(len, before.values()))
    judged = sum(map(_is_judged, after.values())) - sum(map(_is_judged, before.values()))
    note(session, project_id=project_id, wanted=wanted, judged=judged, arrivals=wanted > 0)
    was, now_is = ({key for key, slots in them.items() if _is_offered(slots)} for them in (before, after))
    note_offers(session, project_id=project_id, user_id=None, opened=now_is - was, closed=was - now_is)


def _is_judged(slots: Sequence[tuple[SlotState, int | None]]) -> bool:
    return all(state is SlotState.DONE for state, _ in slots)


def _is_offered(slots: Sequence[tuple[SlotState, int | None]]) -> bool:
    return any(state is SlotState.OPEN for state, _ in slots)


def _knowers(session: Session, comparison_ids: Collection[int]) -> list[tuple[int, int]]:
    """(person, how many of these comparisons they have judged)."""
    rows = session.execute(
        select(Judgment.user_id, func.count(Judgment.comparison_id.distinct()))
        .where(Judgment.comparison_id.in_(comparison_ids))
        .group_by(Judgment.user_id)
    )
    return list(rows.tuples())


def write(session: Session) -> None:
    """Writes what is noted: for whoever counts anew in this transaction. Else it happens before the commit."""
    noted = session.info.pop(PENDING, ())
    rows: dict[tuple[int, int], Changes] = {}
    for _, project_id, user_id, changes in noted:
        row = rows.setdefault((project_id, user_id or 0), {})
        for name, change in changes.items():
            row[name] = change if name in REACHED else row.get(name, 0) + change
    for statement, names, of_evaluators in (
        (ADD_TO_PROJECT, OF_PROJECT, False),
        (ADD_TO_EVALUATOR, (*OF_EVALUATOR, *REACHED), True),
    ):
        # In one order, so that two transactions can't wait for each other.
        values = [
            {"project_id": project_id, **({"user_id": user_id} if of_evaluators else {})}
            | {name: row.get(name, None if name in REACHED else 0) for name in names}
            for (project_id, user_id), row in sorted(rows.items(), key=lambda item: item[0])
            if bool(user_id) is of_evaluators
        ]
        if values:
            connection_of(session).execute(statement, values)


def with_pending(session: Session, row: Any, user_id: int) -> Figures:
    """The figures of a row of FIGURES, with what this transaction has noted and not yet written."""
    names = [field.name for field in fields(Figures)]
    kept = dict(zip(names, row[1:], strict=False))  # a caller may ask for more in the same statement
    for _, project_id, of_user, changes in session.info.get(PENDING, ()):
        if project_id == row[0]:
            for name, change in changes.items():
                if name != "known_offered" and name in kept:
                    kept[name] += change
            if of_user == user_id:
                kept["mine"] += changes.get("judgments", 0) - changes.get("imported", 0)
                kept["known_offered"] += changes.get("known_offered", 0)
    return Figures(**kept)


@event.listens_for(Session, "before_commit")
def _write_at_the_end(session: Session) -> None:
    if PENDING in session.info and not session.in_nested_transaction():
        write(session)


@event.listens_for(Session, "after_soft_rollback")
def _drop_what_was_rolled_back(session: Session, ended: SessionTransaction) -> None:
    if PENDING in session.info:
        session.info[PENDING] = [one for one in session.info[PENDING] if not is_within(one[0], ended)]
