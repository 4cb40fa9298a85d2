"""Erasing a person: nothing in the database says any more who they were. What they judged stays, as a former evaluator's, or is
left out of what is trained from now on.

Files that were made before can't change. They hold no names but for three, which the result says: checkpoints' own records name
who started the run, and the project's own extracts name raters; these extracts are removed, for they can be made again.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session

from app.db import after_commit, read_session, write_session
from app.errors import Conflict, NotFound
from app.models import (
    ApiToken,
    Checkpoint,
    ExclusionKind,
    Extract,
    ExtractForm,
    Job,
    Judgment,
    Link,
    LoginAttempt,
    Membership,
    Passkey,
    Project,
    RecoveryCode,
    User,
    UserSession,
)
from app.models.base import now as utc_now
from app.services.accounts import audit, users
from app.services.collecting import exclusions
from app.services.loop.removal import names
from app.services.loop.removal.imports import Settle
from app.services.loop.removal.names import Names
from app.storage import Storage

ROWS_AT_ONCE = 500
UNMATCHED = {"synchronize_session": False}


class Votes(StrEnum):
    """What becomes of an erased person's votes: they count as a former evaluator's, or are left out from now on."""

    KEEP = "keep"
    EXCLUDE = "exclude"


@dataclass(frozen=True)
class Held:
    """A snapshot or checkpoint that was made before: `number` is a snapshot's in its project, a checkpoint's id."""

    id: int
    project: str
    number: int


@dataclass(frozen=True)
class Erased:
    """What became of a person. `snapshots` were made from their votes; the files of `checkpoints` name them as who started the run."""

    user_id: int
    now_called: str
    judgments: int
    excluded: bool
    extracts_removed: int
    snapshots: list[Held] = field(default_factory=list)
    checkpoints: list[Held] = field(default_factory=list)


def erase(
    engine: Engine,
    storage: Storage,
    *,
    username: str,
    by_id: int | None,
    votes: Votes = Votes.KEEP,
    address: str = "",
    now: datetime | None = None,
) -> Erased:
    """Erases an account, or somebody whose votes came with a file. Opens its own sessions; one that broke off is done again.

    Raises NotFound, and Conflict for oneself and for the last admin.
    """
    with write_session(engine) as session:
        session.info["address"] = address
        by = session.get_one(User, by_id) if by_id else None
        person = _person(session, username)
        if by is not None and person.id == by.id:
            raise Conflict("You can't erase yourself.", "Ask another admin.")
        users.set_active(session, user=person, active=False, by=by)
        was = Names(person.id, person.username, person.display_name)
    named = _named(engine, was)
    removed = _remove_extracts(engine, storage, was.user_id)
    called = _free_name(engine)
    names.replace_all(engine, was, called)
    with write_session(engine) as session:
        session.info["address"] = address
        by = session.get_one(User, by_id) if by_id else None
        person = session.get_one(User, was.user_id, with_for_update=True)
        _end_account(session, person, called, now or utc_now())
        judged = _leave_out(session, person, votes, by)
        audit.record(
            session, by=by, action="user.erase", target=f"user {person.username}", votes=votes.value, judgments=judged
        )
    return replace(
        named,
        now_called=called.display_name,
        judgments=judged,
        excluded=votes is Votes.EXCLUDE,
        extracts_removed=removed,
    )


def _person(session: Session, username: str) -> User:
    """Raises NotFound."""
    known = select(User).where(User.username == users.normalized(username), User.erased_at.is_(None))
    person = session.scalar(known) if "\0" not in username else None
    if person is None:
        raise NotFound(f"There is no user “{username[:64]}”.", "`prefloop user list` names all.")
    return person


def _free_name(engine: Engine) -> Names:
    with read_session(engine) as session:
        number = (session.scalar(select(func.count()).where(User.erased_at.is_not(None))) or 0) + 1
        while session.scalar(select(User.id).where(User.username == f"former-evaluator-{number}")) is not None:
            number += 1
    return Names(0, f"former-evaluator-{number}", f"Former evaluator {number}")


def _named(engine: Engine, was: Names) -> Erased:
    """What was made before and holds them."""
    with read_session(engine) as session:
        snapshots = [Held(row.id, slug, row.number) for row, slug in names.snapshots_with_votes(session, was.user_id)]
        started = (
            select(Checkpoint.id, Project.slug)
            .join(Job, Job.id == Checkpoint.job_id)
            .join(Project, Project.id == Job.project_id)
            .where(Job.created_by_id == was.user_id)
            .order_by(Checkpoint.id)
        )
        checkpoints = [Held(number, slug, number) for number, slug in session.execute(started).tuples()]
    return Erased(was.user_id, "", 0, False, 0, snapshots, checkpoints)


def _remove_extracts(engine: Engine, storage: Storage, user_id: int) -> int:
    judged = select(Judgment.project_id).where(Judgment.user_id == user_id).distinct()
    theirs = select(Extract).where(Extract.form == ExtractForm.OWN, Extract.project_id.in_(judged))
    with read_session(engine) as session:
        rows = [(row.id, [file.key for file in row.files]) for row in session.scalars(theirs)]
    for extract_id, keys in rows:
        with write_session(engine) as session:
            session.execute(delete(Extract).where(Extract.id == extract_id), execution_options=UNMATCHED)
        for key in keys:
            storage.delete(key)
    return len(rows)


def _end_account(session: Session, person: User, called: Names, now: datetime) -> None:
    for table in (UserSession, ApiToken, RecoveryCode, Passkey, Membership):
        theirs = delete(table).where(table.user_id == person.id)
        session.execute(theirs, execution_options=UNMATCHED)
    session.execute(delete(Link).where(Link.user_id == person.id), execution_options=UNMATCHED)
    session.execute(
        delete(LoginAttempt).where(LoginAttempt.bucket.contains(person.username, autoescape=True)),
        execution_options=UNMATCHED,
    )
    session.execute(
        update(User)
        .where(User.id == person.id)
        .values(
            username=called.username,
            display_name=called.display_name,
            password_hash=None,
            totp_secret=None,
            totp_since=None,
            totp_step=None,
            last_seen_at=None,
            erased_at=now,
        ),
        execution_options=UNMATCHED,
    )
    session.refresh(person)


def _leave_out(session: Session, person: User, votes: Votes, by: User | None) -> int:
    """How many judgments they made; these are left out where that is wished."""
    judged = session.execute(
        select(Judgment.project_id, func.count()).where(Judgment.user_id == person.id).group_by(Judgment.project_id)
    ).tuples()
    total = 0
    for project_id, count in judged.all():
        total += count
        known = select(Project).where(Project.id == project_id, Project.deleting_at.is_(None))
        project = session.scalar(known)
        if votes is Votes.KEEP or project is None:
            continue
        if person.id not in exclusions.in_force(session, project_id=project_id).people:
            made = exclusions.exclude(
                session,
                project=project,
                kind=ExclusionKind.PERSON,
                subject_id=person.id,
                by=by,
                reason="The person was erased.",
            )
            after_commit(session, Settle(made.id))
    return total
