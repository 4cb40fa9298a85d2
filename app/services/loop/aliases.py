"""Aliases: a team's names on checkpoints. The only code that moves one; each move is a row of its history."""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from app.errors import Conflict, Invalid, NotAllowed, NotFound
from app.models import Alias, AliasEvent, Checkpoint, Deed, Evaluation, Job, NeededVerdict, Project, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.collecting import typed_text
from app.services.loop import gate

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
LONGEST_WHY = 500
HISTORY = 50


@dataclass(frozen=True)
class Moved:
    """What came of a wish to move an alias: it was moved, or waits for somebody's approval (`waits`)."""

    alias: Alias
    waits: bool


def listing(session: Session, *, project: Project) -> list[Alias]:
    """A project's aliases by name, each with its checkpoint and who asked."""
    return list(session.scalars(_loaded().where(Alias.project_id == project.id).order_by(Alias.name)))


def of_checkpoint(session: Session, *, checkpoint_id: int) -> list[Alias]:
    """The aliases that mean a checkpoint now."""
    return list(session.scalars(select(Alias).where(Alias.checkpoint_id == checkpoint_id).order_by(Alias.name)))


def get(session: Session, *, project: Project, name: str, seen: str = "") -> Alias:
    """`seen`: what the asker saw of it, as its `seen` was. Raises NotFound, and Conflict where it is another by now."""
    known = NAME.fullmatch(name)
    alias = session.scalar(_loaded().where(Alias.project_id == project.id, Alias.name == name)) if known else None
    if alias is None:
        raise NotFound(f"There is no alias “{name[:40]}” in this project.", "Its page of aliases lists them.")
    if seen and seen != alias.seen:
        raise _changed(name)
    return alias


def history(session: Session, *, alias: Alias, size: int = HISTORY) -> list[AliasEvent]:
    """What happened to an alias, the latest first, with who did it and who had asked."""
    query = (
        select(AliasEvent)
        .where(AliasEvent.alias_id == alias.id)
        .options(joinedload(AliasEvent.user), joinedload(AliasEvent.asked_by))
        .order_by(AliasEvent.id.desc())
        .limit(size)
    )
    return list(session.scalars(query))


def move(
    session: Session,
    *,
    project: Project,
    name: str,
    checkpoint_id: int,
    by: User,
    why: str = "",
    now: datetime | None = None,
) -> Moved:
    """Moves the alias to a checkpoint of the project, and makes it where it is new. Where its rule wants another person's
    approval, the move waits for that. Raises GateClosed, Invalid and NotFound."""
    moment, why = now or utc_now(), _why(why)
    _require_own(session, project, checkpoint_id)
    alias = _get_or_make(session, project, name)
    if alias.checkpoint_id == checkpoint_id:
        raise Conflict(f"“{name}” means checkpoint {checkpoint_id} already.", "There is nothing to move.")
    justified = gate.justification(session, alias=alias, checkpoint_id=checkpoint_id)
    if not alias.needs_approval:
        _point(session, alias, checkpoint_id, Deed.MOVED, by, why, moment, evaluation=justified)
        return Moved(alias, waits=False)
    values = {"asked_id": checkpoint_id, "asked_by_id": by.id, "asked_at": moment, "asked_why": why}
    _change(session, alias, values)
    _tell(session, alias, Deed.ASKED, by, why, moment, checkpoint_id=checkpoint_id, evaluation=justified)
    return Moved(alias, waits=True)


def approve(session: Session, *, alias: Alias, by: User, now: datetime | None = None) -> Alias:
    """Carries out the move that somebody else asked for. Raises NotAllowed for whoever asked, and GateClosed where the verdict
    that it rested on is gone."""
    if alias.asked_id is None:
        raise Conflict(f"Nobody asks to move “{alias.name}”.", "Ask for a move first.")
    if alias.asked_by_id == by.id:
        raise NotAllowed(
            f"You asked to move “{alias.name}”: somebody else has to approve it.",
            "Ask another engineer of the project.",
        )
    justified = gate.justification(session, alias=alias, checkpoint_id=alias.asked_id)
    _point(
        session,
        alias,
        alias.asked_id,
        Deed.MOVED,
        by,
        alias.asked_why,
        now or utc_now(),
        evaluation=justified,
        asked_by_id=alias.asked_by_id,
    )
    return alias


def decline(session: Session, *, alias: Alias, by: User, why: str = "", now: datetime | None = None) -> Alias:
    """Drops the move that waits; whoever asked may take it back so too."""
    if alias.asked_id is None:
        raise Conflict(f"Nobody asks to move “{alias.name}”.", "There is nothing to decline.")
    asked, asked_by = alias.asked_id, alias.asked_by_id
    _change(session, alias, _NOTHING_ASKED)
    _tell(session, alias, Deed.DECLINED, by, _why(why), now or utc_now(), checkpoint_id=asked, asked_by_id=asked_by)
    return alias


def back(session: Session, *, alias: Alias, by: User, why: str = "", now: datetime | None = None) -> Alias:
    """Back to what the alias meant before its last move, at once and whatever its rule: it was let through before.

    Raises Conflict where it never meant another.
    """
    before = session.scalar(
        select(AliasEvent.previous_id)
        .where(
            AliasEvent.alias_id == alias.id,
            AliasEvent.deed == Deed.MOVED,  # not BACK: twice back is two steps back
            AliasEvent.checkpoint_id == alias.checkpoint_id,
        )
        .order_by(AliasEvent.id.desc())
        .limit(1)
    )
    if alias.checkpoint_id is None or before is None:
        raise Conflict(f"“{alias.name}” never meant another checkpoint.", "Move it to the one that you want.")
    _point(session, alias, before, Deed.BACK, by, _why(why), now or utc_now())
    return alias


def set_rule(
    session: Session,
    *,
    project: Project,
    name: str,
    needs_verdict: NeededVerdict,
    needs_approval: bool,
    by: User,
    now: datetime | None = None,
) -> Alias:
    """Changes what a move needs, and makes the alias where it is new. A move that waits goes on waiting for an approval."""
    alias = _get_or_make(session, project, name)
    if (alias.needs_verdict, alias.needs_approval) == (needs_verdict, needs_approval):
        return alias
    _change(session, alias, {"needs_verdict": needs_verdict, "needs_approval": needs_approval})
    said = f"verdict: {needs_verdict.value.replace('_', ' ')}; approval: {'yes' if needs_approval else 'no'}"
    _tell(session, alias, Deed.RULE, by, said, now or utc_now())
    return alias


def remove(session: Session, *, alias: Alias, by: User, why: str = "", now: datetime | None = None) -> Alias:
    """The name means nothing any more; its history and rule stay. What follows it keeps what it has."""
    if alias.checkpoint_id is None and alias.asked_id is None:
        raise Conflict(f"“{alias.name}” means no checkpoint.", "There is nothing to remove.")
    previous = alias.checkpoint_id
    _change(session, alias, {"checkpoint_id": None, **_NOTHING_ASKED})
    _tell(session, alias, Deed.REMOVED, by, _why(why), now or utc_now(), previous_id=previous)
    return alias


_NOTHING_ASKED: dict[str, object] = {"asked_id": None, "asked_by_id": None, "asked_at": None, "asked_why": ""}


def _point(
    session: Session,
    alias: Alias,
    checkpoint_id: int,
    deed: Deed,
    by: User,
    why: str,
    now: datetime,
    *,
    evaluation: Evaluation | None = None,
    asked_by_id: int | None = None,
) -> None:
    previous = alias.checkpoint_id
    _change(session, alias, {"checkpoint_id": checkpoint_id, "moved_at": now, **_NOTHING_ASKED})
    _tell(
        session,
        alias,
        deed,
        by,
        why,
        now,
        checkpoint_id=checkpoint_id,
        previous_id=previous,
        evaluation=evaluation,
        asked_by_id=asked_by_id,
    )


def _change(session: Session, alias: Alias, values: dict[str, object]) -> None:
    """By compare-and-set: who decides on what an alias meant before somebody else moved it decides nothing."""
    read = (Alias.id == alias.id, _is(Alias.checkpoint_id, alias.checkpoint_id), _is(Alias.asked_id, alias.asked_id))
    result = session.execute(
        update(Alias).where(*read).values(**values), execution_options={"synchronize_session": False}
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        raise _changed(alias.name)
    session.refresh(alias, [*values])


def _changed(name: str) -> Conflict:
    return Conflict(f"Somebody else just changed “{name}”, or you did by a second click.", "Look at it again.")


def _is(column: InstrumentedAttribute[int | None], value: int | None) -> ColumnElement[bool]:
    return column.is_(None) if value is None else column == value


def _tell(
    session: Session,
    alias: Alias,
    deed: Deed,
    by: User,
    why: str,
    now: datetime,
    *,
    checkpoint_id: int | None = None,
    previous_id: int | None = None,
    evaluation: Evaluation | None = None,
    asked_by_id: int | None = None,
) -> None:
    session.add(
        AliasEvent(
            alias_id=alias.id,
            at=now,
            deed=deed,
            user_id=by.id,
            asked_by_id=asked_by_id,
            checkpoint_id=checkpoint_id,
            previous_id=previous_id,
            evaluation_id=evaluation.id if evaluation else None,
            why=why,
        )
    )
    session.flush()
    audit.record(
        session,
        by=by,
        action=f"alias.{deed.value}",
        target=f"alias {alias.name} of project {alias.project_id}",
        checkpoint=checkpoint_id,
        previous=previous_id,
        evaluation=evaluation.id if evaluation else None,
        why=why,
    )


def _get_or_make(session: Session, project: Project, name: str) -> Alias:
    if not NAME.fullmatch(name):
        raise Invalid(
            f"“{name[:60]}” can't be an alias.",
            "Use up to 40 lower-case letters, digits, dots, hyphens and underscores, a letter or digit first: production.",
            field="name",
        )
    # One at a time in a project: two who make the same name make one.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    alias = session.scalar(_loaded().where(Alias.project_id == project.id, Alias.name == name))
    if alias is None:
        alias = Alias(project_id=project.id, name=name, needs_verdict=NeededVerdict.NONE, needs_approval=False)
        session.add(alias)
        session.flush()
    return alias


def _require_own(session: Session, project: Project, checkpoint_id: int) -> None:
    """Raises NotFound for a checkpoint of another project, as for one that isn't there."""
    query = (
        select(Checkpoint.id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Checkpoint.id == checkpoint_id, Job.project_id == project.id)
    )
    if not 0 < checkpoint_id < 2**31 or session.scalar(query) is None:
        raise NotFound(f"There is no checkpoint {checkpoint_id} in this project.", "Look at the list of checkpoints.")


def _why(text: str) -> str:
    typed_text.check(text := " ".join(text.split()), what="reason", field="why", longest=LONGEST_WHY)
    return text


def _loaded() -> Select[Alias]:
    query = select(Alias).options(joinedload(Alias.checkpoint), joinedload(Alias.asked_by))
    return query.execution_options(populate_existing=True)  # also after a change of it in the same session
