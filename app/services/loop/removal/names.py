"""Where rows say who somebody was beside their account: the audit trail, lines of jobs, statistics of snapshots, provenance."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Engine, Text, cast, delete, or_, select
from sqlalchemy.orm import Session

from app import writer
from app.db import read_session, write_session
from app.models import (
    AuditEntry,
    Checkpoint,
    EventType,
    Job,
    JobEvent,
    Judgment,
    JudgmentSource,
    KeptFigures,
    Project,
    Snapshot,
)

ROWS_AT_ONCE = 500
UNMATCHED = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Names:
    """How somebody is called."""

    user_id: int
    username: str
    display_name: str


def replace_all(engine: Engine, was: Names, called: Names) -> None:
    """Puts the new names in the place of the old ones, some hundred rows in a transaction. Again it changes nothing."""
    for change in (_audit, _events, _snapshots, _checkpoints):
        change(engine, was, called)


def snapshots_with_votes(session: Session, user_id: int) -> Iterator[tuple[Snapshot, str]]:
    """The snapshots that were made from a person's votes, with their projects' slugs."""
    imported = select(Judgment.project_id).where(Judgment.user_id == user_id, Judgment.source == JudgmentSource.IMPORT)
    with_files = set(session.scalars(imported.distinct()))
    judged = select(Judgment.project_id).where(Judgment.user_id == user_id).distinct()
    rows = session.execute(
        select(Snapshot, Project.slug)
        .join(Project, Project.id == Snapshot.project_id)
        .where(Snapshot.project_id.in_(judged))
        .order_by(Snapshot.id)
    ).tuples()
    for snapshot, slug in rows:
        facts = snapshot.statistics
        by_file = snapshot.project_id in with_files and facts.imported
        if by_file or any(one.user_id == user_id for one in facts.evaluators):
            yield snapshot, slug


def _in_pages(engine: Engine, table: Any, where: ColumnElement[bool], change: Callable[[Session, Any], None]) -> None:
    """Goes through rows, some hundred in a transaction."""
    after = 0
    while True:
        with read_session(engine) as session:
            rows = select(table.id).where(table.id > after, where).order_by(table.id).limit(ROWS_AT_ONCE)
            ids = session.scalars(rows).all()
        if not ids:
            return
        after = ids[-1]
        writer.give_way()
        with write_session(engine) as session:
            for row in session.scalars(select(table).where(table.id.in_(ids))):
                change(session, row)


def _audit(engine: Engine, was: Names, called: Names) -> None:
    """The trail goes on saying what was done, by a former evaluator."""

    def change(_session: Session, row: AuditEntry) -> None:
        if row.user_id == was.user_id:
            row.address = ""
        if row.target == f"user {was.username}":
            row.target, row.address = f"user {called.username}", ""
        row.detail = _replaced(row.detail, was, called)

    about = or_(
        AuditEntry.user_id == was.user_id,
        AuditEntry.target == f"user {was.username}",
        cast(AuditEntry.detail, Text).contains(was.username, autoescape=True),
    )
    _in_pages(engine, AuditEntry, about, change)


def _events(engine: Engine, was: Names, called: Names) -> None:
    """Lines that say who cancelled or retried a job."""
    name = re.compile(rf"^{re.escape(was.display_name)}(?= cancelled )")

    def change(_session: Session, row: JobEvent) -> None:
        told = {
            key: name.sub(called.display_name, value) if isinstance(value, str) else value
            for key, value in row.data.items()
        }
        row.data = _replaced(told, was, called)

    of_people = JobEvent.type.in_([EventType.LOG, EventType.STATE])
    text = cast(JobEvent.data, Text)
    said = or_(text.contains(" cancelled ", autoescape=True), text.contains("retried_by", autoescape=True))
    _in_pages(engine, JobEvent, of_people & said, change)


def _replaced(values: dict[str, Any], was: Names, called: Names) -> dict[str, Any]:
    return {key: called.username if value == was.username else value for key, value in values.items()}


def _snapshots(engine: Engine, was: Names, called: Names) -> None:
    """Names in statistics; the files hold none. Figures that are kept are computed anew."""
    with read_session(engine) as session:
        ids = [row.id for row, _ in snapshots_with_votes(session, was.user_id)]
    for snapshot_id in ids:
        with write_session(engine) as session:
            row = session.get_one(Snapshot, snapshot_id)
            evaluators = [
                replace(one, name=called.display_name) if one.user_id == was.user_id else one
                for one in row.statistics.evaluators
            ]
            row.statistics = replace(row.statistics, evaluators=evaluators)
    judged = select(Judgment.project_id).where(Judgment.user_id == was.user_id).distinct()
    with write_session(engine) as session:
        session.execute(delete(KeptFigures).where(KeptFigures.project_id.in_(judged)), execution_options=UNMATCHED)


def _checkpoints(engine: Engine, was: Names, called: Names) -> None:
    def change(_session: Session, row: Checkpoint) -> None:
        row.provenance = _replaced(row.provenance, was, called)

    theirs = Checkpoint.job_id.in_(select(Job.id).where(Job.created_by_id == was.user_id))
    _in_pages(engine, Checkpoint, theirs, change)
