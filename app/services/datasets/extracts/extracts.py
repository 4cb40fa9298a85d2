"""Extracts: files with a project's data, made in the background and kept for a while, or streamed as they are made."""

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import Invalid, NotFound, PrefloopError
from app.models import Container, Extract, ExtractForm, ExtractState, Project, Snapshot, Split, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.datasets import snapshots
from app.services.datasets.extracts import openai, own
from app.services.datasets.extracts.containers import chunks
from app.storage import Storage

STALLED_AFTER = timedelta(minutes=30)  # more than the upload of a large file, which tells nothing meanwhile, takes
PULSE = timedelta(seconds=5)
HIDDEN = "sources_hidden"


@dataclass
class Rows:
    """A file's rows, counted while they are read. `left_out`: pairs that the form can't hold, or not whole, by reason."""

    engine: Engine
    storage: Storage
    form: ExtractForm
    project_id: int
    snapshot: Snapshot | None = None
    split: Split | None = None
    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows():
            if self.form is ExtractForm.OPENAI:
                row = openai.line_of(row)
                if reason := openai.refusal(row):
                    self.left_out[reason] += 1
                    continue
            if HIDDEN in row:
                self.left_out[HIDDEN] += 1
            self.lines += 1
            yield row

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.snapshot is None:
            yield from own.rows(self.engine, project_id=self.project_id)
            return
        assert self.split is not None
        file = snapshots.file(self.snapshot, f"{self.split.value}.jsonl")
        with self.storage.open(file.key) as lines:
            for line in lines:
                yield orjson.loads(line)


def rows(
    engine: Engine,
    storage: Storage,
    *,
    form: ExtractForm,
    project_id: int,
    snapshot: Snapshot | None = None,
    split: Split | None = None,
) -> Rows:
    """What an extract of this form holds. Raises Invalid where a snapshot is missing or there is one too many."""
    if form is ExtractForm.OWN and (snapshot is not None or split is not None):
        raise Invalid("Prefloop's own form holds the whole project.", "Leave the snapshot out.", field="snapshot")
    if form is not ExtractForm.OWN and (snapshot is None or split is None or snapshot.project_id != project_id):
        raise Invalid(
            "This form holds the pairs of a snapshot of the project.", "Freeze one, and name it.", field="snapshot"
        )
    return Rows(engine, storage, form, project_id, snapshot, split)


def name_of(
    project: Project, form: ExtractForm, container: Container, snapshot: Snapshot | None, split: Split | None
) -> str:
    """What the file is called on whoever's disk."""
    if snapshot is None or split is None:
        return f"{project.slug}.{container.value}"
    return f"{project.slug}-{snapshot.number}-{split.value}-{form.value}.{container.value}"


def create(
    session: Session,
    *,
    project: Project,
    by: User,
    form: ExtractForm,
    container: Container,
    snapshot: Snapshot | None = None,
    split: Split | None = None,
) -> Extract:
    """An extract that is to be made (`make`)."""
    row = Extract(
        project_id=project.id,
        snapshot_id=snapshot.id if snapshot else None,
        user_id=by.id,
        form=form,
        split=split,
        container=container,
    )
    session.add(row)
    session.flush()
    audit.record(
        session, by=by, action="extract.create", target=f"extract {row.id}", project=project.slug, form=form.value
    )
    return row


def make(engine: Engine, storage: Storage, extract_id: int) -> Extract:
    """Writes the file and stores it; no transaction is open meanwhile. What goes wrong is told on the row."""
    with read_session(engine) as session:
        row = get(session, extract_id)
        project = session.get_one(Project, row.project_id)
        snapshot = snapshots.get(session, row.snapshot_id) if row.snapshot_id else None
    try:
        source = rows(engine, storage, form=row.form, project_id=project.id, snapshot=snapshot, split=row.split)
        name = name_of(project, row.form, row.container, snapshot, row.split)
        with tempfile.TemporaryDirectory(prefix="prefloop-extract-") as folder:
            path, told = Path(folder) / name, utc_now()
            with path.open("wb") as file:
                for chunk in chunks(source, row.container):
                    file.write(chunk)
                    if utc_now() - told >= PULSE:
                        told = _tell(engine, extract_id, {"lines": source.lines}).updated_at
            stored = storage.put_file(f"extracts/{project.id}/{row.id}/{name}", path, name=name)
        changes: dict[str, Any] = {
            "state": ExtractState.DONE,
            "files": (stored,),
            "lines": source.lines,
            "left_out": dict(source.left_out),
        }
    except Exception as error:
        why = error.what if isinstance(error, PrefloopError) else f"It broke off ({type(error).__name__}: {error})."
        changes = {"state": ExtractState.FAILED, "error": why[:1000]}
    return _tell(engine, extract_id, changes)


def _tell(engine: Engine, extract_id: int, changes: Mapping[str, Any]) -> Extract:
    with write_session(engine) as session:
        row = session.get_one(Extract, extract_id)
        for key, value in (dict(changes) | {"updated_at": utc_now()}).items():
            setattr(row, key, value)
    return row


def start(engine: Engine, storage: Storage, extract_id: int) -> threading.Thread:
    """Makes an extract in the background. Daemon: a server that is stopped doesn't wait, and the page says so later."""
    thread = threading.Thread(
        target=make, args=(engine, storage, extract_id), name=f"extract {extract_id}", daemon=True
    )
    thread.start()
    return thread


def get(session: Session, extract_id: int) -> Extract:
    """Raises NotFound."""
    row = session.get(Extract, extract_id)
    if row is None:
        raise NotFound(f"There is no extract {extract_id}.", "Look at the project's page of extracts.")
    return row


def listing(session: Session, *, project: Project, limit: int = 20) -> list[Extract]:
    """A project's latest extracts, the newest first."""
    return list(
        session.scalars(
            select(Extract).where(Extract.project_id == project.id).order_by(Extract.id.desc()).limit(limit)
        )
    )


def is_stalled(row: Extract, *, now: datetime | None = None) -> bool:
    """Whether it was so long silent that its process must have died. Making another is safe."""
    return row.state is ExtractState.RUNNING and (now or utc_now()) - row.updated_at > STALLED_AFTER


def told(left_out: Mapping[str, int]) -> list[str]:
    """What an extract left out, in sentences."""
    return [
        f"The sources of {count:,} pairs are hidden while a blind batch asks: take it out again when that has ended."
        if reason == HIDDEN
        else f"Left out: {count:,} pairs {openai.REASONS[reason]}."
        for reason, count in left_out.items()
    ]
