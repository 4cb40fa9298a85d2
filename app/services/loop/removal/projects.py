"""Deleting a project with everything of it, step by step, so that nobody waits and a killed deletion goes on.

First `begin` hides it from everybody. Then rows go in small transactions, those that name others first; the files that they named
are noted in the same transaction, and go from the store after it. The project's own row goes last: until then its number, its
address and what is left of it are known. The audit trail stays.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine, delete, insert, select, tuple_
from sqlalchemy.orm import Session

from app import writer
from app.db import after_commit, read_session, settings_of, write_session
from app.errors import Conflict, Invalid
from app.models import Job, JobState, LeftoverFile, Project, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.collecting import counts
from app.services.jobs import jobs
from app.services.loop.removal import owned
from app.services.loop.removal.owned import Owned
from app.storage import Storage, StoredFile, get_storage

log = structlog.get_logger()
ROWS_AT_ONCE = 500
KEYS_READ = 20_000
UNMATCHED = {"synchronize_session": False}
_deleting = threading.Lock()  # one thread of a process is enough


def begin(
    session: Session,
    *,
    project: Project,
    name: str,
    by: User | None,
    in_background: bool = True,
    now: datetime | None = None,
) -> None:
    """Hides a project for good; `finish` removes it after the commit, in the background unless the caller does.
    `name` is what the person typed.

    Raises Invalid for another name, Conflict while a job of it runs or another project rests on its results.
    """
    if name.strip() != project.name:
        raise Invalid(
            f"“{name.strip()[:120]}” isn't this project's name.", f"Type “{project.name}” to delete it.", field="name"
        )
    session.refresh(project, with_for_update=True)
    _require_unused(session, project)
    waiting = select(Job).where(Job.project_id == project.id, Job.state == JobState.QUEUED)
    for job in session.scalars(waiting).all():
        jobs.cancel(session, job=job, by=by, now=now)
    running = select(Job.id).where(Job.project_id == project.id, Job.state == JobState.RUNNING)
    if (job_id := session.scalar(running.limit(1))) is not None:
        raise Conflict(f"Job {job_id} of “{project.name}” is running.", "Cancel it first.", job_id=job_id)
    has = counts.figures(session, project_id=project.id)
    project.deleting_at = now or utc_now()
    project.archived_at = project.archived_at or project.deleting_at
    session.flush()
    audit.record(
        session,
        by=by,
        action="project.delete",
        target=f"project {project.id}",
        slug=project.slug,
        name=project.name,
        comparisons=has.comparisons,
        judgments=has.stored,
    )
    if in_background:
        after_commit(session, Finish(project.id))


@dataclass(frozen=True, slots=True)
class Finish:
    """The wish that a hidden project be removed, by a thread of its own."""

    project_id: int

    def carry_out(self, engine: Engine) -> None:
        storage = get_storage(settings_of(engine))
        thread = threading.Thread(
            target=_try, args=(engine, storage, self.project_id), name=f"delete project {self.project_id}", daemon=True
        )
        thread.start()


def _try(engine: Engine, storage: Storage, project_id: int) -> None:
    try:
        finish(engine, storage, project_id=project_id)
    except Exception:  # the sweeper goes on
        log.exception("project.delete.failed", project=project_id)


def deleting(session: Session) -> list[Project]:
    """The projects of which something is still to be removed."""
    return list(session.scalars(select(Project).where(Project.deleting_at.is_not(None)).order_by(Project.id)))


def go_on(engine: Engine, storage: Storage) -> int:
    """Removes what a process that died left of projects; how many that were."""
    with read_session(engine) as session:
        left = [project.id for project in deleting(session)]
    for project_id in left:
        finish(engine, storage, project_id=project_id)
    return len(left)


def finish(
    engine: Engine,
    storage: Storage,
    *,
    project_id: int,
    progress: Callable[[str, int], None] = lambda what, count: None,
) -> bool:
    """Removes everything of a hidden project; False where another thread is at it, or nothing is left. `progress`: told how many rows
    of which table went."""
    if not _deleting.acquire(blocking=False):
        return False
    try:
        with read_session(engine) as session:
            project = session.get(Project, project_id)
            if project is None or project.deleting_at is None:
                return False
        for one in owned.tables():
            for keys in _keys(engine, one, project_id):
                writer.give_way()
                with write_session(engine) as session:
                    _remove(session, one, keys, project_id)
                progress(one.table.name, len(keys))
            _drop_files(engine, storage, project_id)
        with write_session(engine) as session:
            audit.record(session, by=None, action="project.deleted", target=f"project {project_id}", slug=project.slug)
            session.execute(delete(Project).where(Project.id == project_id), execution_options=UNMATCHED)
        return True
    finally:
        _deleting.release()


def _require_unused(session: Session, project: Project) -> None:
    for what, query in owned.resting_on(project.id):
        other = session.scalar(query)
        if other is not None:
            name = session.scalar(select(Project.name).where(Project.id == other))
            raise Conflict(
                f"“{name}” rests on a result of “{project.name}” ({what.replace('_', ' ')}).",
                "Archive this project instead, or delete the other one first.",
                project_id=other,
            )


def _keys(engine: Engine, one: Owned, project_id: int) -> Iterator[Sequence[Any]]:
    """The keys of a project's rows in a table, some hundred at a time, until there are none."""
    while True:
        with read_session(engine) as session:
            keys = session.execute(one.of(project_id).limit(KEYS_READ)).all()
        yield from (keys[at : at + ROWS_AT_ONCE] for at in range(0, len(keys), ROWS_AT_ONCE))
        if len(keys) < KEYS_READ:
            return


def _remove(session: Session, one: Owned, keys: Sequence[Any], project_id: int) -> None:
    theirs = tuple_(*one.keys).in_([tuple(key) for key in keys])
    if len(one.keys) == 1:
        theirs = one.keys[0].in_([key[0] for key in keys])
    for column in owned.stored_keys(one):
        named = {key for value in session.scalars(select(column).where(theirs)) for key in _keys_in(value)}
        known = set(session.scalars(select(LeftoverFile.key).where(LeftoverFile.key.in_(named))))
        rows = [{"key": key, "project_id": project_id} for key in sorted(named - known)]
        if rows:
            session.execute(insert(LeftoverFile), rows)
    session.execute(delete(one.table).where(theirs))


def _keys_in(value: str | tuple[StoredFile, ...]) -> list[str]:
    return [value] if isinstance(value, str) else [file.key for file in value]


def _drop_files(engine: Engine, storage: Storage, project_id: int) -> None:
    """Removes noted files from the store, then their notes."""
    while True:
        with read_session(engine) as session:
            theirs = select(LeftoverFile.key).where(LeftoverFile.project_id == project_id).limit(ROWS_AT_ONCE)
            keys = session.scalars(theirs).all()
        if not keys:
            return
        for key in keys:
            storage.delete(key)
        with write_session(engine) as session:
            session.execute(delete(LeftoverFile).where(LeftoverFile.key.in_(keys)), execution_options=UNMATCHED)
