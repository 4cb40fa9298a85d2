"""Snapshots: what a project's judgments amount to now, and freezing that into files that never change."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, joinedload

from app.db import read_session, write_session
from app.errors import NotFound, PrefloopError, SnapshotEmpty
from app.models import Counts, Project, Snapshot, Statistics, User, Warned
from app.models.base import now as utc_now
from app.services.accounts import access, audit
from app.services.datasets import files, marks, members, report, votes
from app.services.datasets.collected import Collected, Pair
from app.services.datasets.files import Written
from app.services.datasets.rules import Rule
from app.storage import Storage, StoredFile

PAIRS_BEFORE_A_PAUSE = 250
FREEZING = timedelta(hours=1)  # longer than a freeze takes: what was excluded meanwhile is marked


class InputsBroken(PrefloopError):
    """What a job would work on isn't what was frozen."""

    status = 409
    code = "snapshot_damaged"


@dataclass(frozen=True)
class Preview:
    """What a snapshot would hold now. `counts`, `statistics` and `rule` are what the snapshot would store."""

    rule: Rule
    counts: Counts
    statistics: Statistics

    @property
    def warnings(self) -> tuple[Warned, ...]:
        return self.statistics.warnings

    @property
    def sentence(self) -> str:
        return report.sentence(self.counts)


def preview(
    session: Session,
    *,
    project: Project,
    rule: Mapping[str, Any] | None = None,
    pause: Callable[[], object] = lambda: None,
) -> Preview:
    """Raises Invalid where the rule is. Reads votes and lengths, no texts, and makes a pause now and then."""
    applied = Rule.of(rule)
    collected = Collected()
    decided = votes.decided(session, project=project, rule=applied, collected=collected)
    for _ in _with_pauses(decided, pause):
        pass
    return _describe(collected, applied)


def _with_pauses(pairs: Iterable[Pair], pause: Callable[[], object]) -> Iterator[Pair]:
    for number, pair in enumerate(pairs):
        if number % PAIRS_BEFORE_A_PAUSE == 0:
            pause()
        yield pair


def _describe(collected: Collected, rule: Rule) -> Preview:
    counts, statistics = report.counts(collected), report.statistics(collected)
    return Preview(rule, counts, replace(statistics, warnings=report.warnings(counts, statistics)))


def freeze(
    engine: Engine,
    *,
    project: Project,
    by_id: int | None,
    storage: Storage,
    rule: Mapping[str, Any] | None = None,
    address: str = "",
    now: datetime | None = None,
    pause: Callable[[], object] = lambda: None,
) -> Snapshot:
    """A new snapshot, or the one of this project that has the same content already.

    Looks and uploads while others write; one short transaction adds the row. Who fails in between leaves files that are
    named by their content, which nothing refers to and which the next try overwrites with the same bytes.
    It makes a `pause` now and then. Raises SnapshotEmpty where nothing is left to train on, ProjectArchived, and Invalid where the rule is.
    """
    applied = Rule.of(rule)
    access.require_open(project)
    with tempfile.TemporaryDirectory(prefix="prefloop-snapshot-") as folder:
        with read_session(engine) as session:
            if engine.dialect.name == "postgresql":  # every look at the same state, as SQLite does it anyway
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            collected = Collected()
            decided = votes.decided(session, project=project, rule=applied, collected=collected)
            written = files.write(session, _with_pauses(decided, pause), Path(folder))
            described = _describe(collected, applied)
            if not described.counts.train:
                raise _empty(project, described.counts)
            known = _with_content(session, project, written.sha256)
        if known is not None:
            return known
        return store(engine, project, described, written, storage=storage, by_id=by_id, address=address, now=now)


def store(
    engine: Engine,
    project: Project,
    described: Preview,
    written: Written,
    *,
    storage: Storage,
    by_id: int | None,
    address: str = "",
    now: datetime | None = None,
) -> Snapshot:
    """Uploads what was written, then adds the row in one short transaction, or finds the one that is there."""
    began = utc_now()
    stored = written.upload(storage, project_id=project.id)
    with write_session(engine) as session:
        session.info["address"] = address
        snapshot = _add(session, project, described, written, stored, by_id, now)
    marks.write_since(engine, project_id=project.id, since=began - FREEZING)
    return snapshot


def _with_content(session: Session, project: Project, sha256: str) -> Snapshot | None:
    same = select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.sha256 == sha256)
    return session.scalar(same.order_by(Snapshot.number).limit(1))


def _add(
    session: Session,
    project: Project,
    described: Preview,
    written: Written,
    stored: tuple[StoredFile, ...],
    by_id: int | None,
    now: datetime | None,
) -> Snapshot:
    sha256 = written.sha256
    # One at a time in a project: numbers have no gaps, and a double click finds the first click's snapshot.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    if known := _with_content(session, project, sha256):
        return known
    last = session.scalar(select(func.max(Snapshot.number)).where(Snapshot.project_id == project.id)) or 0
    snapshot = Snapshot(
        project_id=project.id,
        number=last + 1,
        sha256=sha256,
        rule=described.rule.as_dict(),
        counts=described.counts,
        statistics=described.statistics,
        files=stored,
        created_by_id=by_id,
        created_at=now or utc_now(),
    )
    session.add(snapshot)
    session.flush()
    members.write(session, snapshot_id=snapshot.id, blocks=written.blocks)
    audit.record(
        session,
        by=session.get(User, by_id) if by_id else None,
        action="snapshot.freeze",
        target=f"snapshot {snapshot.id}",
        project=project.slug,
        number=snapshot.number,
        sha256=sha256,
        pairs=described.counts.pairs,
    )
    return snapshot


def _empty(project: Project, counts: Counts) -> SnapshotEmpty:
    told = asdict(counts)
    if not counts.comparisons:
        return SnapshotEmpty(f"“{project.name}” has no comparisons yet.", "Import some.", **told)
    if "trained_before" in counts.left_out:
        return SnapshotEmpty(
            f"“{project.name}” has nothing new to train on: {report.left_out_text(counts.left_out)}.",
            "Judge more pairs, or train on the whole dataset.",
            **told,
        )
    if "near_duplicate" in counts.left_out:
        return SnapshotEmpty(
            f"“{project.name}” has nothing to train on: {report.left_out_text(counts.left_out)}.",
            "Collect pairs with other prompts, or keep near duplicates (include_near_duplicates in the rule).",
            **told,
        )
    if counts.eval:
        return SnapshotEmpty(
            f"All {counts.eval} judged pairs of “{project.name}” belong to evaluation; none is left to train on.",
            "Collect more judgments.",
            **told,
        )
    return SnapshotEmpty(
        f"“{project.name}” has nothing to train on: {report.left_out_text(counts.left_out)}.",
        "Collect more judgments, or make the rule less strict.",
        **told,
    )


def get(session: Session, snapshot_id: int) -> Snapshot:
    """One snapshot with its project loaded. Raises NotFound."""
    snapshot = session.scalar(select(Snapshot).where(Snapshot.id == snapshot_id).options(joinedload(Snapshot.project)))
    if snapshot is None:
        raise NotFound(*missing(snapshot_id))
    return snapshot


def of_project(session: Session, *, project: Project, snapshot_id: int) -> Snapshot:
    """One of a project's snapshots; another's is as one that isn't there. Raises NotFound."""
    snapshot = get(session, snapshot_id)
    if snapshot.project_id != project.id:
        raise NotFound(*missing(snapshot_id))
    return snapshot


def missing(snapshot_id: int) -> tuple[str, str]:
    """What is said of a snapshot that isn't there, or isn't for whoever asks."""
    return f"There is no snapshot {snapshot_id}.", "Look at the project's data page."


def listing(session: Session, *, project: Project) -> list[Snapshot]:
    """A project's snapshots, the newest first."""
    return list(
        session.scalars(select(Snapshot).where(Snapshot.project_id == project.id).order_by(Snapshot.number.desc()))
    )


def file(snapshot: Snapshot, name: str) -> StoredFile:
    """One of a snapshot's files by its name. Raises NotFound."""
    for one in snapshot.files:
        if one.name == name:
            return one
    raise NotFound(f"Snapshot {snapshot.number} has no file “{name[:64]}”.", f"It has {' and '.join(files.SPLITS)}.")


def pairs_in(snapshot: Snapshot, name: str) -> int:
    """How many pairs, which is how many lines, one of a snapshot's files holds."""
    return snapshot.counts.of(files.SPLITS[name])


def fetch_pairs(storage: Storage, snapshot: Snapshot, folder: Path) -> dict[str, Path]:
    """The snapshot's files that hold pairs, in a folder and with their hashes checked. Raises InputsBroken for a damaged one."""
    pairs = {file.name: folder / file.name for file in snapshot.files if pairs_in(snapshot, file.name)}
    for file in snapshot.files:
        if file.name in pairs and storage.fetch(file.key, pairs[file.name]).sha256 != file.sha256:
            raise InputsBroken(
                f"{file.name} of snapshot {snapshot.number} isn't what was frozen: its SHA-256 differs.",
                "Look at the artifact store, or freeze a new snapshot.",
            )
    return pairs
