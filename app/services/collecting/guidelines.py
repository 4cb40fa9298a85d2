"""Guidelines: what evaluators go by, in versions that never change."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Guideline, Project, User
from app.services.accounts import access, audit
from app.services.collecting import typed_text

LONGEST = 100_000
BOM = "\ufeff"  # some editors begin a file with one


@dataclass(frozen=True)
class Version:
    """A version without its text; `author` is a display name."""

    number: int
    author: str
    created_at: datetime


def check(text: str) -> None:
    """Raises Invalid for guidelines that can't be stored."""
    typed_text.check(text, what="text of the guidelines", field="guidelines", longest=LONGEST)


def write(session: Session, *, project: Project, text: str, by: User) -> Guideline:
    """Stores a new version; the same text again keeps the version. Raises Invalid."""
    text = text.removeprefix(BOM)
    check(text)
    access.require_open(project)
    # Locked: two people saving at once get two versions, one after the other.
    session.refresh(project, with_for_update={"key_share": True})
    current = get(session, project=project)
    if current is not None and current.text == text:
        return current
    fresh = Guideline(project_id=project.id, version=project.guideline_version + 1, text=text, created_by_id=by.id)
    session.add(fresh)
    project.guideline_version = fresh.version
    session.flush()
    audit.record(session, by=by, action="project.guidelines", target=f"project {project.id}", version=fresh.version)
    return fresh


def get(session: Session, *, project: Project, version: int | None = None) -> Guideline | None:
    """One version, by default the current; None where none was written."""
    number = project.guideline_version if version is None else version
    return session.scalar(select(Guideline).where(Guideline.project_id == project.id, Guideline.version == number))


def versions(session: Session, *, project: Project) -> list[Version]:
    """All versions, the latest first."""
    rows = session.execute(
        select(Guideline.version, User.display_name, Guideline.created_at)
        .outerjoin(User, User.id == Guideline.created_by_id)
        .where(Guideline.project_id == project.id)
        .order_by(Guideline.version.desc())
    )
    return [Version(number, author or "", created_at) for number, author, created_at in rows]
