"""Members of a project: who is in it as what, who may change that, and what invitations promise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, aliased

from app.errors import Conflict, Invalid, NotAllowed, NotFound
from app.models import Link, Membership, Project, ProjectRole, PromisedMembership, Role, User
from app.models.base import now as clock
from app.services.accounts import audit, users


@dataclass(frozen=True, slots=True)
class Member:
    """A person of a project; `added_by` is a user name, empty for the command line, a migration or an invitation."""

    user_id: int
    username: str
    display_name: str
    active: bool
    role: ProjectRole
    added_at: datetime
    added_by: str


@dataclass(frozen=True, slots=True)
class Promise:
    """What the taker of an invitation becomes in a project."""

    project_id: int
    slug: str
    name: str
    role: ProjectRole


def role_of(value: ProjectRole | str) -> ProjectRole:
    """Raises Invalid."""
    try:
        return ProjectRole(value)
    except ValueError:
        raise Invalid(
            f"There is no role “{str(value)[:24]}” in a project.",
            "Roles are evaluator, lead and engineer.",
            field="role",
        ) from None


def listing(session: Session, *, project: Project) -> list[Member]:
    """A project's members: engineers, leads, evaluators, each by user name."""
    adder = aliased(User)
    rows = session.execute(
        select(Membership, User, adder.username)
        .join(User, User.id == Membership.user_id)
        .outerjoin(adder, adder.id == Membership.added_by_id)
        .where(Membership.project_id == project.id)
        .order_by(User.username)
    ).tuples()
    members = [
        Member(user.id, user.username, user.display_name, user.active, row.role, row.added_at, added_by or "")
        for row, user, added_by in rows
    ]
    return sorted(members, key=lambda member: -list(ProjectRole).index(member.role))


def may_give(acting: ProjectRole) -> list[ProjectRole]:
    """The roles that somebody with this role gives and takes away."""
    if acting is ProjectRole.ENGINEER:
        return list(ProjectRole)
    return [ProjectRole.EVALUATOR] if acting is ProjectRole.LEAD else []


def person(session: Session, username: str) -> User:
    """The account of a user name, in words for people who can't list accounts. Raises NotFound."""
    try:
        return users.get(session, username)
    except NotFound:
        raise NotFound(
            f"There is no account “{username.strip()[:64]}”.", "Check the user name. Admins invite new people."
        ) from None


def begin(session: Session, *, project: Project, maker: User, now: datetime | None = None) -> None:
    """The first member of a new project: whoever made it."""
    session.add(_row(project.id, maker.id, ProjectRole.ENGINEER, maker, now))
    session.flush()


def put(
    session: Session,
    *,
    project: Project,
    user: User,
    role: ProjectRole | str,
    by: User,
    acting: ProjectRole,
    now: datetime | None = None,
) -> bool:
    """Gives a person a role in a project; whether they are new in it. `acting`: what `by` is there.

    A lead adds evaluators; only engineers and admins give other roles or take them away. Raises NotAllowed, Invalid,
    and Conflict rather than take a project's last engineer away.
    """
    role = role_of(role)
    row = _locked(session, project, user)
    if row is not None and row.role is role:
        return False
    _check(acting, row.role if row else None, role)
    if row is None:
        if not user.active:
            raise Conflict(f"{user.display_name} is deactivated.", "Reactivate the account first.")
        session.add(_row(project.id, user.id, role, by, now))
        action, detail = "member.add", {"role": role.value}
    else:
        _keep_an_engineer(session, project, user, row.role, by)
        action, detail = "member.role", {"before": row.role.value, "after": role.value}
        row.role = role
    session.flush()
    audit.record(session, by=by, action=action, target=f"project {project.id}", username=user.username, **detail)
    return row is None


def remove(session: Session, *, project: Project, user: User, by: User, acting: ProjectRole) -> None:
    """Takes a person out of a project; what they judged stays. Anybody may leave. Raises NotFound, NotAllowed and
    Conflict as `put`."""
    row = _locked(session, project, user)
    if row is None:
        raise NotFound(f"{user.display_name} isn't a member of “{project.name}”.", "The project's members are listed.")
    if user.id != by.id:
        _check(acting, row.role, None)
    _keep_an_engineer(session, project, user, row.role, by)
    was = row.role.value
    session.execute(
        delete(Membership)
        .where(Membership.project_id == project.id, Membership.user_id == user.id)
        .execution_options(synchronize_session=False)
    )
    session.expunge(row)
    audit.record(
        session, by=by, action="member.remove", target=f"project {project.id}", username=user.username, role=was
    )


def promised(session: Session, projects: Mapping[str, ProjectRole]) -> dict[int, ProjectRole]:
    """What is promised by slug, by project id. Raises NotFound."""
    ids = dict(session.execute(select(Project.slug, Project.id).where(Project.slug.in_(projects))).tuples().all())
    if unknown := sorted(set(projects) - set(ids)):
        raise NotFound(f"There is no project “{unknown[0][:64]}”.", "Look at the list of projects.")
    return {ids[slug]: role for slug, role in projects.items()}


def promise(session: Session, *, token_hash: str, promised: Mapping[int, ProjectRole]) -> None:
    """Notes what the taker of an invitation becomes, by project id."""
    link_id = session.scalars(select(Link.id).where(Link.token_hash == token_hash)).one()
    session.add_all(
        PromisedMembership(link_id=link_id, project_id=project_id, role=role) for project_id, role in promised.items()
    )
    session.flush()


def promises(session: Session, *, link_ids: Iterable[int]) -> dict[int, list[Promise]]:
    """What invitations promise, by the link's id."""
    rows = session.execute(
        select(PromisedMembership, Project.slug, Project.name)
        .join(Project, Project.id == PromisedMembership.project_id)
        .where(PromisedMembership.link_id.in_(list(link_ids)))
        .order_by(Project.slug)
    ).tuples()
    told: dict[int, list[Promise]] = {}
    for row, slug, name in rows:
        told.setdefault(row.link_id, []).append(Promise(row.project_id, slug, name, row.role))
    return told


def keep_promises(
    session: Session, *, link_id: int, user: User, invited_by_id: int | None, now: datetime | None = None
) -> None:
    """Makes the taker of an invitation a member of what it named."""
    for kept in promises(session, link_ids=[link_id]).get(link_id, []):
        row = _row(kept.project_id, user.id, kept.role, None, now)
        row.added_by_id = invited_by_id
        session.add(row)
        audit.record(
            session,
            by=user,
            action="member.add",
            target=f"project {kept.project_id}",
            username=user.username,
            role=kept.role.value,
        )
    session.flush()


def _row(project_id: int, user_id: int, role: ProjectRole, by: User | None, now: datetime | None) -> Membership:
    return Membership(
        project_id=project_id, user_id=user_id, role=role, added_by_id=by.id if by else None, added_at=now or clock()
    )


def _locked(session: Session, project: Project, user: User) -> Membership | None:
    """The membership as it is now. One change at a time in a project, so that two engineers who take each other's role
    away at the same moment don't both succeed."""
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    return session.scalar(
        select(Membership)
        .where(Membership.project_id == project.id, Membership.user_id == user.id)
        .execution_options(populate_existing=True)
    )


def _check(acting: ProjectRole, before: ProjectRole | None, after: ProjectRole | None) -> None:
    if {before, after} - {None, *may_give(acting)}:
        raise NotAllowed(
            "Only the project's engineers and admins make leads and engineers, or take those roles away.",
            "Leads add and remove evaluators.",
        )


def _keep_an_engineer(session: Session, project: Project, leaving: User, was: ProjectRole, by: User) -> None:
    if was is not ProjectRole.ENGINEER or by.role is Role.ADMIN:
        return
    others = session.scalar(
        select(func.count())
        .select_from(Membership)
        .join(User, User.id == Membership.user_id)
        .where(
            Membership.project_id == project.id,
            Membership.role == ProjectRole.ENGINEER,
            Membership.user_id != leaving.id,
            User.active,
        )
    )
    if not others:
        raise Conflict(
            f"{leaving.display_name} is the last engineer of “{project.name}”.",
            "Make somebody else an engineer first, or ask an admin.",
        )
