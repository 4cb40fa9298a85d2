"""A project's guidelines with their history, and the editor of the next version."""

import difflib
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.errors import Invalid, NotFound
from app.models import Guideline, Project, ProjectRole
from app.services.collecting import guidelines
from app.web.deps import LeadDep, MemberDep, SessionDep
from app.web.templating import PageResponse, redirect, render
from app.web.text.rendered import markdown

router = APIRouter()


@dataclass(frozen=True)
class DiffLine:
    """`mark`: + added, - removed, or a space."""

    mark: str
    text: str


@dataclass(frozen=True)
class GuidelinesPage:
    """One version to read; `diff` compares it with the one before it. `text` is what the editor holds."""

    project: Project
    shown: Guideline | None
    versions: list[guidelines.Version]
    diff: list[DiffLine]
    can_edit: bool
    text: str
    error: str = ""


@router.get("/projects/{slug}/guidelines")
def show(request: Request, session: SessionDep, here: MemberDep, version: int | None = None) -> Response:
    project = here.project
    shown = guidelines.get(session, project=project, version=version)
    if version is not None and shown is None:
        raise NotFound(
            f"{project.name} has no version {version} of its guidelines.", "Look at the versions that there are."
        )
    before = guidelines.get(session, project=project, version=shown.version - 1) if shown else None
    return render(
        request,
        "collecting/guidelines/show.html",
        GuidelinesPage(
            project,
            shown,
            guidelines.versions(session, project=project),
            _diff(before, shown),
            can_edit=here.role.covers(ProjectRole.LEAD),
            text=shown.text if shown else "",
        ),
    )


@router.post("/projects/{slug}/guidelines")
def write(
    request: Request, slug: str, session: SessionDep, here: LeadDep, text: Annotated[str, Form()] = ""
) -> Response:
    project = here.project
    text = text.replace("\r\n", "\n")  # as browsers send it
    try:
        saved = guidelines.write(session, project=project, text=text, by=here.user)
    except Invalid as refusal:
        return render(
            request,
            "collecting/guidelines/show.html",
            GuidelinesPage(
                project,
                guidelines.get(session, project=project),
                guidelines.versions(session, project=project),
                [],
                can_edit=True,
                text=text,
                error=str(refusal),
            ),
            status=refusal.status,
        )
    return redirect(
        f"/projects/{slug}/guidelines",
        f"Evaluators see version {saved.version} from their next pair on.",
        "good",
    )


@router.post("/projects/{slug}/guidelines/preview")
def preview(here: LeadDep, text: Annotated[str, Form()] = "") -> Response:
    """The text as evaluators would see it; nothing is kept."""
    return PageResponse(lambda: markdown(text) or '<p class="muted">Nothing written yet.</p>')


def _diff(before: Guideline | None, shown: Guideline | None) -> list[DiffLine]:
    if before is None or shown is None:
        return []
    lines = difflib.unified_diff(before.text.splitlines(), shown.text.splitlines(), n=2, lineterm="")
    return [DiffLine(line[0], line[1:]) for line in lines if not line.startswith(("---", "+++", "@@"))]
