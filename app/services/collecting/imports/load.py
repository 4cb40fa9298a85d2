"""Imports: a file into a project, batch by batch, so that what was read stays whatever happens next."""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import BinaryIO

from sqlalchemy import Engine, select
from sqlalchemy.orm import DeclarativeBase, Session

from app import bulk, writer
from app.config import Settings
from app.db import write_session
from app.errors import Conflict, NotFound, PrefloopError, disk_full
from app.models import Comparison, Import, ImportState, Judgment, Project, Prompt, PromptKey, Response, Slot, User
from app.models.base import now as utc_now
from app.services.accounts import access, audit
from app.services.collecting.imports import mapping, storing
from app.services.collecting.imports.reading import apart, told
from app.services.collecting.imports.reading.batches import Batch
from app.services.collecting.imports.records.rows import read_rows

PAIRS_AT_ONCE = 2_000
PAIRS_BESIDE_PEOPLE = 200
REPORTED_REJECTIONS = 1_000
# So many refusals with nothing accepted, and the rest of the file isn't read: it isn't what its sender takes it for.
HOPELESS = 1_000
# After so many new pairs the database looks at its tables, and again whenever an import has doubled.
FIRST_SIZE = 1_000
# Columns by which an import and the desk look rows up.
GROWING: dict[type[DeclarativeBase], tuple[str, ...]] = {
    Prompt: ("project_id", "content_hash", "split", "group_id"),
    Response: ("prompt_id", "content_hash"),
    Comparison: ("project_id", "prompt_id", "pair_hash", "import_id", "evaluation_id"),
    Slot: ("project_id", "comparison_id", "state", "holder_id", "place", "evaluation_id"),
    PromptKey: ("project_id", "key", "prompt_id"),
    Judgment: ("project_id", "comparison_id", "user_id", "superseded"),
}
STALLED_AFTER = timedelta(minutes=10)
QUIET_AFTER = timedelta(seconds=30)


def load(
    engine: Engine,
    *,
    project_id: int,
    user_id: int,
    stream: BinaryIO,
    filename: str,
    settings: Settings,
    progress: Callable[[Import], None] | None = None,
    given: Mapping[str, str] | None = None,
    draft_id: int | None = None,
    begun: Callable[[], None] | None = None,
) -> Import:
    """Reads a file into a project and says what became of its lines and columns.

    given: what a person said that columns become, which is kept for the next file with these columns; what was kept
    before is used otherwise. draft_id: the import that looked at the file before. begun: told once the import runs.

    Commits by batches with sessions of its own. A stream that breaks, a file of which nothing is accepted and one that
    somebody stops end as `failed` with what was read before. Votes without a rater are judgments by `user_id`. Run again,
    it adds only what is missing. Raises Invalid for a mapping that can't be, Conflict for a draft that runs already.
    """
    roles = mapping.checked(given)
    row = _begin(engine, project_id, user_id, filename, draft_id)
    if begun:
        begun()
    try:
        rows = read_rows(
            stream, max_line=settings.max_line_bytes, max_total=settings.max_import_bytes, known=tuple(roles or ())
        )
        is_apart = engine.dialect.name == "postgresql"
        read = apart.read(
            rows, lambda first: mapping.settle(engine, project_id=project_id, rows=first, given=roles), worded=is_apart
        )
        stored = _stored(engine, row.id, project_id, read, is_apart=is_apart)
        broken = ""
        with closing(read), closing(stored):
            sized = FIRST_SIZE
            for row, broken in stored:
                if row.added >= sized:
                    bulk.look_at_sizes(engine, GROWING)
                    sized = 2 * row.added
                if progress:
                    progress(row)
                if not broken and (broken := _reason_to_stop(row)):
                    break
        return _finish(engine, row.id, broken or _nothing_accepted(row))
    except BaseException as error:
        fact = disk_full(error) or error
        why = fact.what if isinstance(fact, PrefloopError) else f"The import was interrupted ({type(error).__name__})."
        _finish(engine, row.id, f"{why} Run it again: what is here already is counted as duplicates.")
        raise


def _begin(engine: Engine, project_id: int, user_id: int, filename: str, draft_id: int | None) -> Import:
    with write_session(engine) as session:
        project = session.get_one(Project, project_id)
        access.require_open(project)
        if draft_id is None:
            row = Import(project_id=project.id, user_id=user_id, filename=clean(filename))
            session.add(row)
        else:
            row = session.scalars(select(Import).where(Import.id == draft_id).with_for_update()).one()
            if row.state is not ImportState.DRAFT:
                raise Conflict(f"Import {row.id} was started already.", "Look at its page.", import_id=row.id)
            row.state, row.user_id, row.updated_at = ImportState.RUNNING, user_id, utc_now()
        session.flush()
        audit.record(
            session,
            by=session.get(User, user_id),
            action="import.start",
            target=f"import {row.id}",
            project=project.slug,
            filename=row.filename,
        )
    return row


def clean(filename: str) -> str:
    return "".join(character for character in filename if character.isprintable())[-255:]


def _stored(
    engine: Engine, import_id: int, project_id: int, read: Iterator[Batch], *, is_apart: bool
) -> Generator[tuple[Import, str]]:
    """The import after each batch, and why the file ends there, if it does.

    is_apart: the next batch is read while the database's server stores one. On SQLite the same process does both, and who waits to
    write would wait for the reading, too.
    """
    if not is_apart:
        for batch in read:
            yield _store(engine, import_id, project_id, batch), batch.broken
        return
    with ThreadPoolExecutor(1, "import") as other:
        storing: Future[Import] | None = None
        broken = ""
        for batch in read:
            if storing is not None:
                yield storing.result(), broken
            storing, broken = other.submit(_store, engine, import_id, project_id, batch), batch.broken
        if storing is not None:
            yield storing.result(), broken


def _store(engine: Engine, import_id: int, project_id: int, batch: Batch) -> Import:
    """One batch, one commit, or several where its lines have many pairs. All that can be done before a transaction is."""
    outcome, parsed, worded = batch.outcome, batch.parsed, batch.worded
    while len(parsed) > (at_once := _pairs_at_once(engine)):
        looked = storing.look(engine, project_id=project_id, parsed=parsed[:at_once], worded=worded)
        writer.give_way()
        with write_session(engine) as session, bulk.room(session):
            storing.store(session, session.get_one(Import, import_id), looked, outcome)
        parsed = parsed[at_once:]
        writer.give_way()
    writer.give_way()
    looked = storing.look(engine, project_id=project_id, parsed=parsed, worded=worded)
    writer.give_way()
    with write_session(engine) as session:
        row = session.get_one(Import, import_id)
        if parsed:
            with bulk.room(session):
                storing.store(session, row, looked, outcome)
        outcome.rejections.sort(key=lambda rejection: rejection["line"])
        row.lines += batch.lines
        row.added += outcome.added
        row.judged += outcome.judged
        row.duplicates += outcome.duplicates
        row.filled += outcome.filled
        row.rejected += len(outcome.rejections)
        if new := outcome.rejections[: REPORTED_REJECTIONS - len(row.rejections)]:
            row.rejections = [*row.rejections, *new]
        row.report = told.and_differences(batch.report, earlier=row.report, differences=outcome.differences)
        row.mapping = {column: role.value for column, role in batch.given.items()}
        row.updated_at = utc_now()
    return row


def _pairs_at_once(engine: Engine) -> int:
    """Pairs of one transaction. Lines with many answers have many, and nobody waits for all of them. On SQLite people who judge
    wait for each transaction, so that there it is short while they are here."""
    is_waited_for = engine.dialect.name == "sqlite" and writer.people_are_here()
    return PAIRS_BESIDE_PEOPLE if is_waited_for else PAIRS_AT_ONCE


def _reason_to_stop(row: Import) -> str:
    if row.stop_requested:
        return f"It was stopped after {row.lines:,} lines. Import the file again to read the rest."
    if row.rejected >= HOPELESS and not row.added and not row.duplicates:
        return f"The first {row.lines:,} lines were all refused, so the rest wasn't read. {_first_reason(row)}"
    return ""


def _nothing_accepted(row: Import) -> str:
    if not row.lines:
        return "The file has no lines."
    if not row.added and not row.duplicates:
        return f"No line was accepted. {_first_reason(row)}"
    return ""


def _first_reason(row: Import) -> str:
    first = row.rejections[0]
    return f"Line {first['line']:,}: {first['message']}"


def _finish(engine: Engine, import_id: int, error: str) -> Import:
    with write_session(engine) as session:
        row = session.get_one(Import, import_id)
        row.state = ImportState.FAILED if error else ImportState.DONE
        row.error, row.finished_at, row.updated_at = error, utc_now(), utc_now()
        audit.record(
            session,
            by=session.get(User, row.user_id) if row.user_id else None,
            action="import.finish",
            target=f"import {row.id}",
            state=row.state.value,
            added=row.added,
            judged=row.judged,
            duplicates=row.duplicates,
            rejected=row.rejected,
        )
    return row


def get(session: Session, import_id: int) -> Import:
    row = session.get(Import, import_id)
    if row is None:
        raise NotFound(f"There is no import {import_id}.", "Look at the project's data page.")
    return row


def of_project(session: Session, project: Project, import_id: int) -> Import:
    """One of a project's imports; another's is as one that isn't there. Raises NotFound."""
    row = get(session, import_id)
    if row.project_id != project.id:
        raise NotFound(f"There is no import {import_id}.", "Look at the project's data page.")
    return row


def listing(session: Session, *, project: Project, limit: int = 50) -> list[Import]:
    """A project's latest imports, the newest first."""
    return list(
        session.scalars(select(Import).where(Import.project_id == project.id).order_by(Import.id.desc()).limit(limit))
    )


def arriving(session: Session, *, project: Project) -> list[Import]:
    """A project's imports whose lines still come."""
    rows = session.scalars(
        select(Import).where(Import.project_id == project.id, Import.state == ImportState.RUNNING).order_by(Import.id)
    )
    return [row for row in rows if not is_quiet(row)]


def stop(session: Session, *, row: Import, by: User) -> None:
    """Asks a running import to end after the batch that it is at. What was stored stays."""
    if row.state is not ImportState.RUNNING or row.stop_requested:
        return
    row.stop_requested = True
    audit.record(session, by=by, action="import.stop", target=f"import {row.id}")


def is_stalled(row: Import, *, now: datetime | None = None) -> bool:
    """Whether a running import was so long silent that its process must have died. Running it again is safe."""
    return row.state is ImportState.RUNNING and (now or utc_now()) - row.updated_at > STALLED_AFTER


def is_quiet(row: Import, *, now: datetime | None = None) -> bool:
    """Whether no line has come for so long that its process may be gone; `is_stalled` is sure of it."""
    return row.state is ImportState.RUNNING and (now or utc_now()) - row.updated_at > QUIET_AFTER
