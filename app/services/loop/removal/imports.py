"""Undoing an import: what nobody judged goes, judged pairs stay and are excluded. Step by step, and people go first.

The exclusion of the import is what lasts: from its first transaction on new snapshots leave all of it out. A step that breaks off is
done again (`go_on`), for each looks at what is there.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, Engine, Select, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app import writer
from app.db import connection_of, read_session, write_session
from app.errors import Conflict
from app.models import (
    Comparison,
    Exclusion,
    ExclusionKind,
    Import,
    ImportState,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    Response,
    Showing,
    Snapshot,
    Split,
    User,
)
from app.services.accounts import audit
from app.services.collecting import counts, exclusions, places, slots
from app.services.collecting.imports import load
from app.services.datasets import marks
from app.services.loop.removal import unused
from app.services.loop.removal.unused import Keys

log = structlog.get_logger()
PAIRS_AT_ONCE = 200
UNMATCHED = {"synchronize_session": False}


def undo(session: Session, *, row: Import, by: User | None, reason: str = "", now: datetime | None = None) -> Exclusion:
    """Excludes an import; `settle` does the rest after the commit. Again it changes nothing.

    Raises Conflict while the import runs or waits, and what `exclusions.exclude` raises.
    """
    if known := exclusions.in_force_of(session, kind=ExclusionKind.IMPORT, subject_id=row.id):
        return known
    if row.state is ImportState.DRAFT:
        raise Conflict(f"Nothing of import {row.id} is stored yet.", "Discard the file instead.", import_id=row.id)
    if row.state is ImportState.RUNNING and not load.is_stalled(row, now=now):
        raise Conflict(f"Import {row.id} is running.", "Stop it first.", import_id=row.id)
    project = session.get_one(Project, row.project_id)
    made = exclusions.exclude(
        session, project=project, kind=ExclusionKind.IMPORT, subject_id=row.id, by=by, reason=reason, now=now
    )
    audit.record(session, by=by, action="import.undo", target=f"import {row.id}", project=project.slug)
    return made


def settle(engine: Engine, *, exclusion_id: int) -> None:
    """Brings the pairs of an import to where its exclusion, in force or lifted, wants them, and marks the snapshots that hold what
    is excluded, of whatever kind. Opens its own sessions."""
    after = 0
    while True:
        with read_session(engine) as session:
            row = session.get(Exclusion, exclusion_id)
            if row is None or row.settled:
                return
            page = _page(session, row.import_id, after) if row.import_id else []
            keys = unused.prompt_keys(session, page) if row.lifted_at is None else {}
        if not page:
            break
        after = page[-1]
        writer.give_way()
        with write_session(engine) as session:
            _step(session, exclusion_id, page, keys)
    marks.write(engine, exclusion_id=exclusion_id)
    with write_session(engine) as session:
        row = session.get(Exclusion, exclusion_id, with_for_update=True)
        if row is not None and not row.settled:
            row.settled = True
            if row.import_id is None:
                return
            by_id = row.lifted_by_id if row.lifted_at else row.by_id
            audit.record(
                session,
                by=session.get(User, by_id) if by_id else None,
                action="exclusion.settle",
                target=f"exclusion {row.id}",
                removed=row.removed,
            )


def go_on(engine: Engine) -> int:
    """Settles what a process that died left unsettled; how many exclusions that were."""
    with read_session(engine) as session:
        unsettled = session.scalars(select(Exclusion.id).where(~Exclusion.settled).order_by(Exclusion.id)).all()
    for exclusion_id in unsettled:
        settle(engine, exclusion_id=exclusion_id)
    return len(unsettled)


@dataclass(frozen=True, slots=True)
class Settle:
    """The wish that an exclusion be settled, by a thread of its own; the sweeper goes on where this process ends before it."""

    exclusion_id: int

    def carry_out(self, engine: Engine) -> None:
        with read_session(engine) as session:
            row = session.get(Exclusion, self.exclusion_id)
        if row is not None and row.kind in (ExclusionKind.PAIR, ExclusionKind.JUDGMENT):
            settle(engine, exclusion_id=self.exclusion_id)  # at once: it takes no longer than a look
            return
        threading.Thread(
            target=self._try, args=(engine,), name=f"settle exclusion {self.exclusion_id}", daemon=True
        ).start()

    def _try(self, engine: Engine) -> None:
        try:
            settle(engine, exclusion_id=self.exclusion_id)
        except Exception:
            log.exception("undo.failed", exclusion=self.exclusion_id)


def _page(session: Session, import_id: int, after: int) -> Sequence[int]:
    of_import = select(Comparison.id).where(Comparison.import_id == import_id, Comparison.id > after)
    return session.scalars(of_import.order_by(Comparison.id).limit(PAIRS_AT_ONCE)).all()


def _step(session: Session, exclusion_id: int, page: Sequence[int], keys: Keys) -> None:
    row = session.get(Exclusion, exclusion_id, with_for_update=True)
    if row is None or row.settled:
        return
    project = session.get_one(Project, row.project_id)
    # As `pairs.add_many`: who looked before must look again, for what they saw may be gone.
    session.execute(
        update(Project).where(Project.id == project.id).values(pairs_version=Project.pairs_version + 1),
        execution_options=UNMATCHED,
    )
    gone: Sequence[int] = []
    if row.lifted_at is None:
        # Slots first, as everybody who judges: nobody judges one of these pairs from here on.
        session.execute(places.STANDING, {"comparisons": list(page)})
        session.execute(select(Comparison.id).where(Comparison.id.in_(page)).order_by(Comparison.id).with_for_update())
        gone = session.scalars(_removable(page)).all()
        if gone:
            _remove(session, project.id, gone, keys)
            row.removed += len(gone)
            session.flush()
    slots.fit(session, project=project, comparison_ids=[number for number in page if number not in set(gone)])


def _removable(page: Sequence[int]) -> Select[int]:
    """Of these pairs those that nobody judged but the file itself, and that no snapshot may hold."""
    of_pair = Judgment.comparison_id == Comparison.id
    elsewhere = or_(
        Judgment.source != JudgmentSource.IMPORT,
        Judgment.import_id.is_(None),
        Judgment.import_id != Comparison.import_id,
    )
    is_judged = exists().where(of_pair)
    frozen = exists().where(Snapshot.project_id == Comparison.project_id, Snapshot.created_at >= Comparison.created_at)
    kept: ColumnElement[bool] = or_(exists().where(of_pair, elsewhere), is_judged & frozen)
    has_history = exists().where(Exclusion.comparison_id == Comparison.id) | exists().where(
        of_pair, Exclusion.judgment_id == Judgment.id
    )
    return select(Comparison.id).where(
        Comparison.id.in_(page), ~kept, ~has_history, ~unused.is_named(Comparison, but=(Judgment, Showing, Exclusion))
    )


def _remove(session: Session, project_id: int, gone: Collection[int], keys: Keys) -> None:
    """Removes pairs with all that is about them alone, and their part of the kept counts."""
    rows = session.execute(
        select(
            Comparison.prompt_id,
            Comparison.first_response_id,
            Comparison.second_response_id,
            Comparison.gold_choice,
            Prompt.split,
        )
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .where(Comparison.id.in_(gone))
    ).all()
    slots.remove(session, project_id=project_id, comparison_ids=gone)
    _forget_judgments(session, project_id, gone)
    for table in (Showing, Comparison):
        key = Comparison.id if table is Comparison else Showing.comparison_id
        session.execute(delete(table).where(key.in_(gone)), execution_options=UNMATCHED)
    counts.note(
        session,
        project_id=project_id,
        comparisons=-len(rows),
        golds=-sum(row.gold_choice is not None for row in rows),
        evals=-sum(row.split is Split.EVAL for row in rows),
    )
    unused.drop(session, Response, {number for row in rows for number in row[1:3]})
    unused.drop_prompts(session, project_id, {row.prompt_id for row in rows}, keys)


def _forget_judgments(session: Session, project_id: int, gone: Collection[int]) -> None:
    current = ~Judgment.superseded
    made = session.execute(
        select(Judgment.user_id, func.count(), func.count().filter(current))
        .where(Judgment.comparison_id.in_(gone))
        .group_by(Judgment.user_id)
    ).tuples()
    for user_id, stored, judgments in made:
        counts.note(
            session,
            project_id=project_id,
            user_id=user_id,
            stored=-stored,
            judgments=-judgments,
            imported=-judgments,
        )
    session.flush()
    # In one statement: rows of it name each other.
    connection_of(session).execute(delete(Judgment).where(Judgment.comparison_id.in_(gone)))
