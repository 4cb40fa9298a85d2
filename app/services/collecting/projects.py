"""Projects: what is compared, by which guidelines and rules."""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import security
from app.errors import Conflict, Invalid, NotFound
from app.models import Membership, Project, ProjectCount, ProjectRole, User
from app.models.base import now
from app.services.accounts import access, audit, members
from app.services.accounts.access import Caller
from app.services.collecting import counts, places, slots, typed_text
from app.services.collecting import guidelines as guideline_texts
from app.services.collecting.blind import looks

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
RESERVED_SLUGS = frozenset({"new"})
RULES = frozenset(
    {
        "judgments_per_comparison",
        "allow_tie",
        "allow_both_bad",
        "allow_skip",
        "lease_seconds",
        "daily_goal",
        "eval_percent",
        "default_base_model",
        "is_demo",
        "open_to_everybody",
        "evaluates_runs",
    }
)
LIMITS = {
    "judgments_per_comparison": (1, 25),
    "lease_seconds": (30, 86400),
    "eval_percent": (0, 50),
    "daily_goal": (0, 10_000),
}
LONGEST = {"name": 120, "description": 4_000, "default_base_model": 255}

BY_SLUG = select(Project).where(Project.slug == bindparam("slug"))


@dataclass(frozen=True)
class Overview:
    """A project with its counts: comparisons, slots wanted and done, current judgments; and how many pairs wait for the
    caller. `role`: what the caller is in it."""

    project: Project
    role: ProjectRole
    comparisons: int
    wanted: int
    done: int
    judgments: int
    waiting_for_me: int


def slug_of(name: str) -> str:
    """A slug for a name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "project"


def create(
    session: Session, *, slug: str, name: str, by: User, description: str = "", guidelines: str = "", **rules: object
) -> Project:
    """A new project. `rules` are the columns of RULES. Raises Invalid, and Conflict where the slug is taken."""
    if not SLUG.fullmatch(slug) or slug in RESERVED_SLUGS:
        raise Invalid(
            f"“{slug}” can't be a project's address.",
            "Use 1 to 64 lower-case letters, digits and hyphens, other than “new”.",
            field="slug",
        )
    _check_text(name=name, description=description)
    guideline_texts.check(guidelines)
    _check_name(name)
    _check_rules(rules)
    project = Project(slug=slug, name=name.strip(), description=description, created_by_id=by.id, **rules)
    try:
        with session.begin_nested():
            session.add(project)
            session.flush()
            session.add(ProjectCount(project_id=project.id))
    except IntegrityError as error:
        raise Conflict(f"A project “{slug}” exists already.", "Choose another address.", field="slug") from error
    members.begin(session, project=project, maker=by)
    audit.record(session, by=by, action="project.create", target=f"project {project.id}", slug=slug)
    if guidelines.removeprefix(guideline_texts.BOM).strip():
        guideline_texts.write(session, project=project, text=guidelines, by=by)
    return project


def get(session: Session, slug: str) -> Project:
    project = session.scalar(BY_SLUG, {"slug": slug}) if "\0" not in slug else None
    if project is None or project.deleting_at is not None:
        raise NotFound(f"There is no project “{slug[:64]}”.", "Look at the list of projects.")
    return project


def archive(session: Session, *, project: Project, by: User | None) -> None:
    """Makes a project one that can only be looked at: nobody is asked in it, and nothing new trains. Again changes nothing."""
    _archive(session, project, by, at=now())


def bring_back(session: Session, *, project: Project, by: User | None) -> None:
    """Makes an archived project one in which people work. Again changes nothing."""
    _archive(session, project, by, at=None)


def _archive(session: Session, project: Project, by: User | None, *, at: datetime | None) -> None:
    session.refresh(project, with_for_update={"key_share": True})
    if (project.archived_at is None) is (at is None):
        return
    project.archived_at = at
    session.flush()
    action = "project.archive" if at else "project.bring_back"
    audit.record(session, by=by, action=action, target=f"project {project.id}", slug=project.slug)


def listing(session: Session, *, caller: Caller) -> list[Overview]:
    """Every project that the caller may see with its counts, the newest first, archived ones last."""
    mine = and_(Membership.project_id == Project.id, Membership.user_id == caller.user_id)
    seen = select(Project, Membership.role).outerjoin(Membership, mine).where(access.may(caller))
    order = Project.archived_at.is_not(None), Project.id.desc()
    rows = session.execute(seen.order_by(*order)).tuples().all()
    all_kept = counts.by_project(session, user_id=caller.user_id)
    kept = {project.id: all_kept[project.id] for project, _ in rows}
    waiting = places.waiting(session, kept, user_id=caller.user_id, now=now())
    for project_id in [project_id for project_id, figures in kept.items() if figures.asking]:
        waiting[project_id] += looks.waiting(session, project_id=project_id, user_id=caller.user_id, now=now())
    return [
        Overview(
            project,
            access.role_in(project, membership, caller) or ProjectRole.EVALUATOR,
            kept[project.id].comparisons,
            kept[project.id].wanted,
            kept[project.id].done,
            kept[project.id].judgments,
            waiting[project.id],
        )
        for project, membership in rows
    ]


def update(
    session: Session,
    *,
    project: Project,
    by: User,
    name: str | None = None,
    description: str | None = None,
    **rules: object,
) -> Project:
    """Changes what is given. Judgments wanted per comparison apply to the comparisons that are there as well;
    the share of eval prompts applies to prompts that come later: a prompt never changes its split."""
    _check_text(name=name, description=description)
    if name is not None:
        _check_name(name)
    _check_rules(rules)
    access.require_open(project)
    session.refresh(project, with_for_update={"key_share": True})  # it was looked up before this transaction began
    changes = {"name": name.strip() if name is not None else None, "description": description, **rules}
    changes = {key: value for key, value in changes.items() if value is not None and value != getattr(project, key)}
    if not changes:
        return project
    before = {key: getattr(project, key) for key in changes}
    for key, value in changes.items():
        setattr(project, key, value)
    session.flush()
    if "judgments_per_comparison" in changes:
        slots.match(session, project=project)
    audit.record(session, by=by, action="project.update", target=f"project {project.id}", before=before, after=changes)
    return project


def _check_name(name: str) -> None:
    if not name.strip():
        raise Invalid("The project needs a name.", "Type one.", field="name")
    if security.has_control_characters(name.strip()):
        raise Invalid("The name holds a control character.", "Type it again.", field="name")


def _check_text(**texts: str | None) -> None:
    for field, text in texts.items():
        if text is not None:
            typed_text.check(text, what=field, field=field, longest=LONGEST[field])


def _check_rules(rules: dict[str, object]) -> None:
    unknown = sorted(set(rules) - RULES)
    if unknown:
        raise Invalid(
            f"A project has no rule “{unknown[0]}”.", f"Known rules: {', '.join(sorted(RULES))}.", field=unknown[0]
        )
    for key, (least, most) in LIMITS.items():
        value = rules.get(key)
        if value is not None and (not isinstance(value, int) or not least <= value <= most):
            raise Invalid(
                f"{key.replace('_', ' ').capitalize()} is {value}.", f"Choose {least} to {most:,}.", field=key
            )
    model = rules.get("default_base_model")
    if isinstance(model, str):
        _check_text(default_base_model=model)
