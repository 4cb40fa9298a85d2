"""Freezes of large projects, which take minutes: in the background, with a page that says how far they are. A small project is frozen
while its reader waits. “Train on current dataset” stays one click: the run is queued when its snapshot is there."""

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app import writer
from app.db import read_session, write_session
from app.errors import NotFound, PrefloopError, disk_full
from app.models import Freezing, FreezingState, Project, TrainingRun, User
from app.models.base import now as utc_now
from app.services.accounts import access
from app.services.collecting import counts
from app.services.datasets import figures, snapshots
from app.services.datasets.rules import Rule
from app.services.training import parents, runs
from app.storage import Storage

log = structlog.get_logger()
# Longer than a million judgments and their upload take.
STALLED_AFTER = timedelta(minutes=30)
SHOWN_FOR = timedelta(days=1)


def is_large(session: Session, project: Project) -> bool:
    """Whether freezing takes longer than somebody should wait for a page."""
    return counts.figures(session, project_id=project.id).judgments > figures.MOST_JUDGMENTS


def begin(
    session: Session,
    *,
    project: Project,
    by: User,
    rule: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> tuple[Freezing, bool]:
    """(A freezing that is to be carried out, whether it is new): a second click finds the first one's. `run`: what a run is queued with
    afterwards. Raises Invalid where the rule is, ProjectArchived."""
    access.require_open(project)
    told = Rule.of(rule).as_dict()
    wanted = dict(run) if run is not None else None
    # One at a time in a project, so that two clicks find each other's.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    going_on = select(Freezing).where(Freezing.project_id == project.id, Freezing.state == FreezingState.RUNNING)
    for row in session.scalars(going_on.order_by(Freezing.id.desc())):
        if not is_stalled(row) and (row.user_id, row.rule, row.run) == (by.id, told, wanted):
            return row, False
    row = Freezing(project_id=project.id, user_id=by.id, rule=told, run=wanted)
    session.add(row)
    session.flush()
    return row, True


def carry_out(engine: Engine, storage: Storage, freezing_id: int, *, address: str = "") -> Freezing:
    """Freezes, and queues the run if one is wanted. People who are being answered go first. What goes wrong is told on the row."""
    with read_session(engine) as session:
        row = session.get_one(Freezing, freezing_id)
        project = session.get_one(Project, row.project_id)
    changes: dict[str, Any]
    common: dict[str, Any] = {"storage": storage, "rule": row.rule, "address": address, "pause": writer.give_way}
    try:
        if row.run is None:
            snapshot = snapshots.freeze(engine, project=project, by_id=row.user_id, **common)
            changes = {"snapshot_id": snapshot.id}
        else:
            run = _train(engine, row, project, common)
            changes = {"snapshot_id": run.snapshot_id, "job_id": run.job_id}
        changes["state"] = FreezingState.DONE
    except Exception as error:
        fact = disk_full(error) or error
        if not isinstance(fact, PrefloopError):
            log.exception("freezing.failed", freezing=freezing_id)
        why = str(fact) if isinstance(fact, PrefloopError) else f"It broke off ({type(error).__name__}: {error})."
        changes = {"state": FreezingState.FAILED, "error": why[:1000]}
    with write_session(engine) as session:
        row = session.get_one(Freezing, freezing_id)
        for key, value in (changes | {"updated_at": utc_now()}).items():
            setattr(row, key, value)
    return row


def _train(engine: Engine, row: Freezing, project: Project, common: Mapping[str, Any]) -> TrainingRun:
    wanted = dict(row.run or {})
    with read_session(engine) as session:
        start_from = wanted.pop("from_checkpoint", None)
        parent = parents.find(session, start_from) if start_from is not None else None
    return runs.train_on_current(engine, project=project, by_id=row.user_id, parent=parent, **wanted, **common)


def start(engine: Engine, storage: Storage, freezing_id: int, *, address: str = "") -> threading.Thread:
    """Carries a freezing out in the background. Daemon: a server that is stopped doesn't wait, and the page says so later."""
    thread = threading.Thread(
        target=carry_out,
        args=(engine, storage, freezing_id),
        kwargs={"address": address},
        name=f"freezing {freezing_id}",
        daemon=True,
    )
    thread.start()
    return thread


def get(session: Session, *, project: Project, freezing_id: int) -> Freezing:
    """One of a project's. Raises NotFound."""
    row = session.get(Freezing, freezing_id) if 0 < freezing_id < 2**31 else None
    if row is None or row.project_id != project.id:
        raise NotFound(f"There is no freezing {freezing_id}.", "Look at the project's data page.")
    return row


def latest(session: Session, *, project: Project, now: datetime | None = None) -> Freezing | None:
    """The project's newest, if it goes on, or failed within a day."""
    newest = select(Freezing).where(Freezing.project_id == project.id).order_by(Freezing.id.desc()).limit(1)
    row = session.scalar(newest)
    if row is None or row.state is FreezingState.DONE or (now or utc_now()) - row.updated_at > SHOWN_FOR:
        return None
    return row


def is_stalled(row: Freezing, *, now: datetime | None = None) -> bool:
    """Whether it was so long silent that its process must have died. Freezing again is safe."""
    return row.state is FreezingState.RUNNING and (now or utc_now()) - row.updated_at > STALLED_AFTER
