"""Who may do what in which project: one query for one project, one condition for lists. Everything that belongs to a
project is looked up through `OF`, so what isn't in it can't be guarded, and the access test says so."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, bindparam, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.config import Settings
from app.errors import NotFound, ProjectArchived
from app.models import (
    Checkpoint,
    Comparison,
    Evaluation,
    Exclusion,
    Extract,
    Import,
    Job,
    Membership,
    Project,
    ProjectRole,
    Role,
    Snapshot,
    TokenProject,
    User,
    UserSession,
)
from app.services.accounts import sessions

LARGEST_ID = 2**31 - 1
# What each account role makes of somebody in a project that is open to everybody.
IN_OPEN_PROJECTS = {
    Role.ADMIN: ProjectRole.ENGINEER,
    Role.ENGINEER: ProjectRole.ENGINEER,
    Role.EVALUATOR: ProjectRole.EVALUATOR,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an account with its role, and the token that speaks for it if that is narrowed to projects."""

    user_id: int
    role: Role
    token_id: int | None = None

    @classmethod
    def of(cls, user: User) -> "Caller":
        return cls(user.id, user.role)


@dataclass(frozen=True, slots=True)
class Place:
    """The project that a value leads to, None where there is none, and somebody's membership in it."""

    project: Project | None
    membership: ProjectRole | None


def _of_row(column: InstrumentedAttribute[int], key: Any, value: object) -> ScalarSelect[Any]:
    return select(column).where(key == value).scalar_subquery()


def _of_checkpoint(value: object) -> ScalarSelect[Any]:
    return (
        select(Job.project_id)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .where(Checkpoint.id == value)
        .scalar_subquery()
    )


# The name of a value in an address, to the id of the project that it leads to; and what is said where it leads nowhere.
OF = {
    "job_id": lambda value: _of_row(Job.project_id, Job.id, value),
    "snapshot_id": lambda value: _of_row(Snapshot.project_id, Snapshot.id, value),
    "comparison_id": lambda value: _of_row(Comparison.project_id, Comparison.id, value),
    "import_id": lambda value: _of_row(Import.project_id, Import.id, value),
    "extract_id": lambda value: _of_row(Extract.project_id, Extract.id, value),
    "exclusion_id": lambda value: _of_row(Exclusion.project_id, Exclusion.id, value),
    "checkpoint_id": _of_checkpoint,
    "evaluation_id": lambda value: _of_row(Evaluation.project_id, Evaluation.id, value),
    "slug": lambda value: _of_row(Project.id, Project.slug, value),
}
MISSING = {
    "job_id": ("There is no job {}.", "Look at the list of runs."),
    "snapshot_id": ("There is no snapshot {}.", "Look at the project's data page."),
    "comparison_id": ("There is no comparison {}.", "Look at the project's data."),
    "import_id": ("There is no import {}.", "Look at the project's data page."),
    "extract_id": ("There is no extract {}.", "Look at the project's page of extracts."),
    "exclusion_id": ("There is no exclusion {}.", "Look at what the project leaves out."),
    "checkpoint_id": ("There is no checkpoint {}.", "Look at the list of checkpoints."),
    "evaluation_id": ("There is no evaluation {}.", "Look at the project's evaluations."),
    "slug": ("There is no project “{}”.", "Look at the list of projects."),
}


@cache
def _one(of: str, narrowed: bool) -> Select[Project, ProjectRole]:
    """The query of `find`, built once, for every request asks it."""
    mine = and_(Membership.project_id == Project.id, Membership.user_id == bindparam("user"))
    query = select(Project, Membership.role).outerjoin(Membership, mine)
    query = query.where(Project.id == OF[of](bindparam("value")), Project.deleting_at.is_(None))
    if not narrowed:
        return query
    allowed = select(TokenProject.project_id).where(TokenProject.token_id == bindparam("token"))
    return query.where(Project.id.in_(allowed))


def find(session: Session, *, caller: Caller, of: str, value: str | int) -> tuple[Project, ProjectRole] | None:
    """The project that a value leads to and what the caller is in it; None where there is none for them. One query."""
    known = _known(of, value)
    if known is None:
        return None
    asked = {"value": known, "user": caller.user_id, "token": caller.token_id}
    row = session.execute(_one(of, caller.token_id is not None), asked).tuples().first()
    return _of_place(Place(*row), caller) if row else None


@cache
def _arriving(of: str) -> Select[int, datetime, User, Project | None, ProjectRole | None]:
    """The query of `arrive`, built once, for every page of a project asks it. The session's row isn't made: an object costs more
    than a column."""
    there = and_(Project.id == OF[of](bindparam("value")), Project.deleting_at.is_(None))
    mine = and_(Membership.project_id == Project.id, Membership.user_id == User.id)
    query = select(UserSession.id, UserSession.last_used_at, User, Project, Membership.role).where(*sessions.LIVES)
    return (
        query.select_from(UserSession)
        .join(User, User.id == UserSession.user_id)
        .outerjoin(Project, there)
        .outerjoin(Membership, mine)
    )


def arrive(
    session: Session, *, token: str, of: str, value: str | int, settings: Settings
) -> tuple[int, datetime, User, Place] | None:
    """Whom a browser's token speaks for and where they want to go, in one query: the sign-in session's id, its last use, its user and
    the place. None where the session has ended."""
    asked = sessions.asked(token, settings) | {"value": _known(of, value)}
    row = session.execute(_arriving(of), asked).tuples().first()
    return (row[0], row[1], row[2], Place(row[3], row[4])) if row else None


def get(
    session: Session, *, caller: Caller, of: str, value: str | int, place: Place | None = None
) -> tuple[Project, ProjectRole]:
    """As `find`, or without a query where the place was looked up along with the session. Raises NotFound, with the same words
    for what is hidden and for what isn't there."""
    here = find(session, caller=caller, of=of, value=value) if place is None else _of_place(place, caller)
    if here is None:
        what, next_step = MISSING[of]
        raise NotFound(what.format(str(value)[:64]), next_step)
    return here


def require_open(project: Project) -> None:
    """Raises ProjectArchived for a project that can only be looked at."""
    if project.archived_at is not None:
        raise ProjectArchived(
            f"“{project.name}” is archived: it can only be looked at.", "Bring it back in its settings first."
        )


def _of_place(place: Place, caller: Caller) -> tuple[Project, ProjectRole] | None:
    role = role_in(place.project, place.membership, caller) if place.project is not None else None
    return (place.project, role) if place.project is not None and role is not None else None


def role_in(project: Project, membership: ProjectRole | None, caller: Caller) -> ProjectRole | None:
    """What the caller is in a project, given their membership in it; None: it is hidden from them."""
    if caller.role is Role.ADMIN:
        return ProjectRole.ENGINEER
    roles = [membership, IN_OPEN_PROJECTS[caller.role] if project.open_to_everybody else None]
    return max((role for role in roles if role), key=list(ProjectRole).index, default=None)


def may(caller: Caller, least: ProjectRole = ProjectRole.EVALUATOR) -> ColumnElement[bool]:
    """The condition on Project for what the caller may do as `least`. It looks their memberships up by an index."""
    is_there = Project.deleting_at.is_(None)
    if caller.role is Role.ADMIN:
        return is_there & _not_narrowed_away(caller)
    mine = select(Membership.project_id).where(
        Membership.user_id == caller.user_id, Membership.role.in_(least.and_above)
    )
    allowed: ColumnElement[bool] = Project.id.in_(mine)
    if IN_OPEN_PROJECTS[caller.role].covers(least):
        allowed = allowed | Project.open_to_everybody
    return is_there & allowed & _not_narrowed_away(caller)


def within(
    column: InstrumentedAttribute[int], *, caller: Caller, least: ProjectRole = ProjectRole.EVALUATOR
) -> ColumnElement[bool]:
    """The condition for lists of what belongs to projects: `column` holds the project's id."""
    return column.in_(select(Project.id).where(may(caller, least)))


def projects(session: Session, *, caller: Caller) -> list[Project]:
    """The projects that the caller may see, by name."""
    return list(session.scalars(select(Project).where(may(caller)).order_by(Project.name, Project.id)))


def _not_narrowed_away(caller: Caller) -> ColumnElement[bool]:
    if caller.token_id is None:
        return true()
    narrowed: Select[int] = select(TokenProject.project_id).where(TokenProject.token_id == caller.token_id)
    return Project.id.in_(narrowed)


def _known(of: str, value: str | int) -> str | int | None:
    """A value that the database can look up; None for one that it never holds."""
    if of == "slug":
        return value if isinstance(value, str) and value and "\0" not in value and len(value) <= 64 else None
    text = str(value)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else 0
    return number if 1 <= number <= LARGEST_ID else None
