"""`prefloop prune`: removes what isn't needed any more, by the ages that the settings give.

Never: prompts, answers, judgments, snapshots, checkpoints, exports of them, the audit trail. Rows go in small transactions, so that
nobody waits; files go outside of any.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, and_, delete, exists, or_, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import get_engine, read_session, write_session
from app.models import (
    FINISHED,
    ApiToken,
    EventType,
    Extract,
    ExtractState,
    Job,
    JobEvent,
    Judgment,
    Link,
    Showing,
    Slot,
    UserSession,
)
from app.models.base import now as clock
from app.ops import stored
from app.services.datasets.extracts import extracts
from app.storage import get_storage

BATCH = 500
STEPS_KEPT = 200  # of a finished job's steps, so that its charts stay
DONE_FILE = ".pruned"
EVERY = timedelta(hours=24)
HALF = ("tmp/", "probe-")
OURS = (*HALF, "snapshots/", "checkpoints/", "extracts/")
WORK_FOLDER = re.compile(r"job-(\d+)(?:-([0-9a-f]+))?")


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, or would be: how many of what, and their bytes where they are files."""

    what: str
    count: int
    bytes: int = 0


def prune(
    settings: Settings, *, dry_run: bool = False, stored_files: bool = False, now: datetime | None = None
) -> list[Removed]:
    """Removes everything that is older than the settings say; with `dry_run` only counts it.

    Stored files that no row names go only by somebody's wish (`stored_files`): where an older database was put in the place
    of this one, or where two installations share a store, they are somebody's results.
    """
    now, engine = now or clock(), get_engine(settings)
    before = {
        name: now - timedelta(days=getattr(settings, name))
        for name in type(settings).model_fields
        if name.startswith("keep_")
    }
    ended, shown = before["keep_sessions_days"], before["keep_showings_days"]
    used_link = or_(_ended(Link, ended), Link.used_at < ended)
    removed = [
        _rows(engine, "ended sessions", UserSession.id, _ended(UserSession, ended), dry_run),
        _rows(engine, "ended links", Link.id, used_link, dry_run),
        _rows(engine, "ended tokens", ApiToken.id, _ended(ApiToken, ended), dry_run),
        _rows(engine, "showings that nobody judged", Showing.id, _unjudged(shown), dry_run),
        _extracts(settings, engine, before["keep_extracts_days"], now, dry_run),
        _events(engine, before["keep_events_days"], dry_run),
        _work_folders(settings, engine, before["keep_failed_days"], dry_run),
        _files(settings.data_dir / "cache", "caches", before["keep_cache_days"], dry_run),
        _uploads(settings, engine, before["keep_uploads_days"], dry_run, every=stored_files),
        _files(settings.broker_dir / "messages", "broker files", before["keep_uploads_days"], dry_run),
    ]
    if not dry_run:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / DONE_FILE).touch()
    return removed


def is_due(settings: Settings) -> bool:
    """Whether nobody pruned this data folder for a day."""
    done = settings.data_dir / DONE_FILE
    try:
        return time.time() - done.stat().st_mtime > EVERY.total_seconds()
    except FileNotFoundError:
        return True


def _ended(table: type[UserSession] | type[Link] | type[ApiToken], before: datetime) -> Any:
    return or_(table.revoked_at < before, table.expires_at < before)


def _unjudged(before: datetime) -> Any:
    """What nobody can answer to any more: an old showing without a judgment, and not the one that holds a slot."""
    return and_(
        Showing.shown_at < before,
        ~exists().where(Judgment.lease_token == Showing.token),
        ~exists().where(Slot.lease_token == Showing.token),
    )


def _rows(engine: Engine, what: str, key: Any, condition: Any, dry_run: bool) -> Removed:
    count, after = 0, 0
    while True:
        with read_session(engine) as session:
            ids = session.scalars(select(key).where(condition, key > after).order_by(key).limit(BATCH)).all()
        if not ids:
            return Removed(what, count)
        after, count = ids[-1], count + len(ids)
        if not dry_run:
            with write_session(engine) as session:
                _delete(session, key, ids)


def _delete(session: Session, key: Any, ids: Any) -> None:
    session.execute(delete(key.class_).where(key.in_(ids)).execution_options(synchronize_session=False))


def _extracts(settings: Settings, engine: Engine, before: datetime, now: datetime, dry_run: bool) -> Removed:
    """Files with a project's data that were made long ago, with their rows: they can be made again. One that is still being made
    stays."""
    store, after, count, size = get_storage(settings), 0, 0, 0
    old = or_(Extract.state != ExtractState.RUNNING, Extract.updated_at < now - extracts.STALLED_AFTER)
    while True:
        with read_session(engine) as session:
            spare = select(Extract.id, Extract.files).where(Extract.updated_at < before, old, Extract.id > after)
            rows = session.execute(spare.order_by(Extract.id).limit(BATCH)).tuples().all()
        if not rows:
            return Removed("extracts", count, size)
        files = [file for _, of_one in rows for file in of_one]
        after, count, size = rows[-1][0], count + len(rows), size + sum(file.size for file in files)
        if not dry_run:
            for file in files:  # first: a row without its file is found again, a file without its row isn't
                store.delete(file.key)
            with write_session(engine) as session:
                _delete(session, Extract.id, [number for number, _ in rows])


def _events(engine: Engine, before: datetime, dry_run: bool) -> Removed:
    """Log lines, and all but some hundreds of the steps, of jobs that ended long ago. What happened, evaluations, samples, the
    result and errors stay."""
    old = select(Job.id).where(Job.state.in_(FINISHED), Job.finished_at < before).order_by(Job.id)
    count = 0
    with read_session(engine) as session:
        jobs = session.scalars(old).all()
    for job_id in jobs:
        for batch in _spare_events(engine, job_id):
            count += len(batch)
            if not dry_run:
                with write_session(engine) as session:
                    _delete(session, JobEvent.id, batch)
    return Removed("events of old jobs", count)


def _spare_events(engine: Engine, job_id: int) -> Iterator[list[int]]:
    with read_session(engine) as session:
        rows = session.execute(
            select(JobEvent.id, JobEvent.type)
            .where(JobEvent.job_id == job_id, JobEvent.type.in_([EventType.LOG, EventType.STEP]))
            .order_by(JobEvent.id)
        ).tuples()
        ids: dict[EventType, list[int]] = {EventType.LOG: [], EventType.STEP: []}
        for event_id, kind in rows:
            ids[kind].append(event_id)
    steps = ids[EventType.STEP]
    every = -(-len(steps) // STEPS_KEPT) if len(steps) > 2 * STEPS_KEPT else 1  # what was thinned once stays as it is
    kept = {*steps[::every], *steps[-1:]}
    spare = [*ids[EventType.LOG], *(event_id for event_id in steps if event_id not in kept)]
    yield from (spare[at : at + BATCH] for at in range(0, len(spare), BATCH))


def _work_folders(settings: Settings, engine: Engine, before: datetime, dry_run: bool) -> Removed:
    """Those of jobs that failed or were cancelled long ago, and of jobs that this database doesn't know."""
    spare = []
    for path in _children(settings.data_dir / "work"):
        match = WORK_FOLDER.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        with read_session(engine) as session:
            row = session.execute(select(Job.state, Job.finished_at, Job.uid).where(Job.id == int(match[1]))).first()
        known = row is not None and row[2].startswith(match[2] or "") and bool(row[2]) == bool(match[2])
        if known and row is not None:
            is_spare = row[0] in FINISHED and row[1] is not None and row[1] < before
        else:
            is_spare = _last_used(path) < before.timestamp()
        if is_spare:
            spare.append(path)
    size = sum(size_of(path) for path in spare)
    if not dry_run:
        for path in spare:
            shutil.rmtree(path, ignore_errors=True)
    return Removed("work folders of failed jobs", len(spare), size)


def _files(folder: Path, what: str, before: datetime, dry_run: bool) -> Removed:
    spare = [path for path in _walk(folder) if _last_used(path) < before.timestamp()]
    size = sum(path.lstat().st_size for path in spare)
    if not dry_run:
        for path in spare:
            path.unlink(missing_ok=True)
    return Removed(what, len(spare), size)


def _uploads(settings: Settings, engine: Engine, before: datetime, dry_run: bool, *, every: bool) -> Removed:
    """Half of a file whose writing broke off; with `every`, also whole ones of ours that no row names. Young ones may just be
    on their way."""
    store, ours = get_storage(settings), OURS if every else HALF
    old = {
        key: size
        for key, size, since in store.stored()
        if key.startswith(ours) and since is not None and since < before
    }
    with read_session(engine) as session:
        named = {file.key for _, file in stored.files(session)}
    spare = {key: size for key, size in old.items() if key not in named}
    if not dry_run:
        for key in spare:
            store.delete(key)
    return Removed("stored files that nothing names", len(spare), sum(spare.values()))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and below, links not followed; 0 where there is none."""
    return sum(path.lstat().st_size for path in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.exists() and not path.is_symlink():
                yield path


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _last_used(path: Path) -> float:
    facts = path.stat()
    return max(facts.st_mtime, facts.st_atime)
