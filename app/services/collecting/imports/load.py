"""Imports: a file into a project, batch by batch, so that what was read stays whatever happens next."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import BinaryIO

from sqlalchemy import Engine, insert, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import write_session
from app.errors import NotFound, PrefloopError
from app.models import Choice, Import, ImportState, Judgment, JudgmentSource, Project, Rejection, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.collecting import counts, pairs, slots
from app.services.collecting.imports.forms import Parsed, parse
from app.services.collecting.imports.lines import StreamBroken, read_lines
from app.services.collecting.messages import Unfit

BATCH_LINES = 500
BATCH_BYTES = 4_000_000
BATCH_SECONDS = 2.0
REPORTED_REJECTIONS = 1_000
STALLED_AFTER = timedelta(minutes=10)
Line = tuple[int, bytes | None]
Numbered = tuple[int, Parsed]


@dataclass
class Outcome:
    """What became of one batch of lines: each was added, was there already, or was rejected. `judged` of the pairs got
    a judgment."""

    added: int = 0
    judged: int = 0
    duplicates: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    def reject(self, number: int, unfit: Unfit) -> None:
        self.rejections.append(Rejection(line=number, reason=unfit.reason, message=unfit.message))


def load(
    engine: Engine,
    *,
    project_id: int,
    user_id: int,
    stream: BinaryIO,
    filename: str,
    settings: Settings,
    progress: Callable[[Import], None] | None = None,
) -> Import:
    """Reads a stream of JSON Lines (or gzip of them) into a project and says what became of it.

    Commits by batches with sessions of its own. A stream that breaks ends as `failed` with what was read before.
    Judged pairs become judgments by `user_id`. Run again, it adds only what is missing.
    """
    with write_session(engine) as session:
        project = session.get_one(Project, project_id)
        row = Import(project_id=project.id, user_id=user_id, filename=_clean(filename))
        session.add(row)
        session.flush()
        audit.record(
            session,
            by=session.get(User, user_id),
            action="import.start",
            target=f"import {row.id}",
            project=project.slug,
            filename=row.filename,
        )
        import_id = row.id
    try:
        lines = read_lines(stream, max_line=settings.max_line_bytes, max_total=settings.max_import_bytes)
        broken = ""
        for batch, why in _batches(lines):
            row, broken = _load_batch(engine, import_id, batch, settings), why
            if progress:
                progress(row)
        return _finish(engine, import_id, broken or ("" if row.lines else "The file has no lines."))
    except BaseException as error:
        why = (
            error.what if isinstance(error, PrefloopError) else f"The import was interrupted ({type(error).__name__})."
        )
        _finish(engine, import_id, f"{why} Run it again: what is here already is counted as duplicates.")
        raise


def _clean(filename: str) -> str:
    return "".join(character for character in filename if character.isprintable())[-255:]


def _batches(lines: Iterator[Line]) -> Iterator[tuple[list[Line], str]]:
    """Batches by number of lines, bytes or seconds; the last one with why the stream broke, if it did."""
    batch: list[Line] = []
    size, began = 0, time.monotonic()
    try:
        for number, line in lines:
            batch.append((number, line))
            size += len(line or b"")
            if len(batch) >= BATCH_LINES or size >= BATCH_BYTES or time.monotonic() - began > BATCH_SECONDS:
                yield batch, ""
                batch, size, began = [], 0, time.monotonic()
    except StreamBroken as error:
        yield batch, str(error)
    else:
        yield batch, ""


def _load_batch(engine: Engine, import_id: int, lines: list[Line], settings: Settings) -> Import:
    """One batch, one commit."""
    outcome = Outcome()
    parsed = list(_parse(lines, outcome, settings.max_line_bytes))
    with write_session(engine) as session:
        row = session.get_one(Import, import_id)
        project = session.get_one(Project, row.project_id)
        if parsed:
            _store(session, row, project, parsed, outcome)
        outcome.rejections.sort(key=lambda rejection: rejection["line"])
        row.added += outcome.added
        row.judged += outcome.judged
        row.duplicates += outcome.duplicates
        row.rejected += len(outcome.rejections)
        row.rejections = [*row.rejections, *outcome.rejections[: REPORTED_REJECTIONS - len(row.rejections)]]
        row.state, row.updated_at = ImportState.RUNNING, utc_now()
    return row


def _parse(lines: list[Line], outcome: Outcome, max_line: int) -> Iterator[Numbered]:
    for number, line in lines:
        try:
            if line is None:
                raise Unfit("too_long", f"The line is longer than {max_line:,} bytes.")
            yield number, parse(line)
        except Unfit as unfit:
            outcome.reject(number, unfit)


def _store(session: Session, row: Import, project: Project, parsed: list[Numbered], outcome: Outcome) -> None:
    user = session.get_one(User, row.user_id)
    slots.one_at_a_time(session, user)
    stored = pairs.add_many(session, project=project, pairs=[one.pair for _, one in parsed], import_id=row.id)
    judged = {at.comparison_id for at, (_, one) in zip(stored, parsed, strict=True) if one.judged}
    earlier = _earlier_choices(session, user, judged)
    fresh: dict[int, Choice] = {}
    for at, (number, one) in zip(stored, parsed, strict=True):
        choice = Choice.SECOND if at.swapped else Choice.FIRST
        known = earlier.get(at.comparison_id) or fresh.get(at.comparison_id)
        if one.judged and known is not None and known is not choice:
            outcome.reject(
                number,
                Unfit(
                    "contradicts_earlier",
                    "This pair was judged before, by an import or by you, and with "
                    "another result. Change that judgment if it is wrong.",
                ),
            )
            continue
        outcome.added += at.added
        outcome.duplicates += not at.added
        if one.judged and known is None:
            fresh[at.comparison_id] = choice
    _judge(session, user, project, fresh)
    outcome.judged += len(fresh)


def _earlier_choices(session: Session, user: User, comparison_ids: Collection[int]) -> dict[int, Choice]:
    """What this person, or any import, said of these comparisons before."""
    rows = session.execute(
        select(Judgment.comparison_id, Judgment.choice).where(
            Judgment.comparison_id.in_(comparison_ids),
            (Judgment.user_id == user.id) | (Judgment.source == JudgmentSource.IMPORT),
            ~Judgment.superseded,
        )
    )
    return dict(rows.tuples().all())


def _judge(session: Session, user: User, project: Project, fresh: dict[int, Choice]) -> None:
    """Records judgments by the importing person, each in a slot where its comparison has one for them."""
    if not fresh:
        return
    now = utc_now()
    changed = slots.settle(session, project_id=project.id, comparison_ids=fresh, user=user, now=now)
    session.execute(
        insert(Judgment),
        [
            {
                "project_id": project.id,
                "comparison_id": comparison_id,
                "slot_id": changed.slots.get(comparison_id),
                "user_id": user.id,
                "choice": choice,
                "source": JudgmentSource.IMPORT,
                "guideline_version": project.guideline_version,
                "submitted_at": now,
            }
            for comparison_id, choice in fresh.items()
        ],
    )
    counts.note(
        session,
        project_id=project.id,
        user_id=user.id,
        stored=len(fresh),
        judgments=len(fresh),
        imported=len(fresh),
        known_offered=len(changed.offered),  # what is fresh was never judged by this person
    )


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


def listing(session: Session, *, project: Project, limit: int = 50) -> list[Import]:
    """A project's latest imports, the newest first."""
    return list(
        session.scalars(select(Import).where(Import.project_id == project.id).order_by(Import.id.desc()).limit(limit))
    )


def is_stalled(row: Import, *, now: datetime | None = None) -> bool:
    """Whether a running import was so long silent that its process must have died. Running it again is safe."""
    return row.state is ImportState.RUNNING and (now or utc_now()) - row.updated_at > STALLED_AFTER
