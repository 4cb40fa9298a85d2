"""What a project leaves out of training: the list, leaving something out, putting it back, undoing an import."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.db import after_commit
from app.models import ExclusionKind, Project
from app.paging import Page
from app.security import local_path
from app.services.collecting import exclusions
from app.services.collecting.exclusions import Told
from app.services.collecting.imports import load
from app.services.loop.removal import imports
from app.services.loop.removal.imports import Settle
from app.web.deps import LeadDep, RowId, SessionDep
from app.web.templating import redirect, render

router = APIRouter()
DONE = {
    ExclusionKind.PAIR: "The pair is left out: nobody is asked about it, and new snapshots don't hold it.",
    ExclusionKind.JUDGMENT: "The judgment is left out of new snapshots.",
    ExclusionKind.PERSON: "Their votes in this project are left out of new snapshots.",
}


class ExcludeForm(BaseModel):
    kind: ExclusionKind = ExclusionKind.PAIR
    subject: int = Field(0, ge=0, le=2**31 - 1)
    reason: str = ""
    next: str = ""


class NextForm(BaseModel):
    next: str = ""


class UndoForm(BaseModel):
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ExclusionsPage:
    project: Project
    page: Page[Told]


@router.get("/projects/{slug}/exclusions")
def show(request: Request, session: SessionDep, here: LeadDep, page: int = 1) -> Response:
    rows = exclusions.listing(session, project=here.project, page=page)
    return render(request, "loop/exclusions/show.html", ExclusionsPage(here.project, rows))


@router.post("/projects/{slug}/exclusions")
def exclude(session: SessionDep, here: LeadDep, form: Annotated[ExcludeForm, Form()]) -> Response:
    if form.kind is ExclusionKind.IMPORT:
        return undo(form.subject, session, here, UndoForm(reason=form.reason))
    made = exclusions.exclude(
        session, project=here.project, kind=form.kind, subject_id=form.subject, by=here.user, reason=form.reason
    )
    after_commit(session, Settle(made.id))
    return redirect(_back(form.next, here.project), DONE[form.kind], "good")


@router.post("/exclusions/{exclusion_id}/lift")
def lift(exclusion_id: RowId, session: SessionDep, here: LeadDep, form: Annotated[NextForm, Form()]) -> Response:
    row = exclusions.get(session, exclusion_id)
    exclusions.lift(session, project=here.project, row=row, by=here.user)
    after_commit(session, Settle(row.id))
    return redirect(_back(form.next, here.project), "It is back: new snapshots hold it again.", "good")


@router.post("/imports/{import_id}/undo")
def undo(import_id: RowId, session: SessionDep, here: LeadDep, form: Annotated[UndoForm, Form()]) -> Response:
    """The exclusion at once, the rest in the background."""
    made = imports.undo(
        session, row=load.of_project(session, here.project, import_id), by=here.user, reason=form.reason
    )
    after_commit(session, Settle(made.id))
    return redirect(
        f"/imports/{import_id}", "The import is undone. What nobody judged goes; judged pairs stay, left out.", "good"
    )


def _back(next_page: str, project: Project) -> str:
    return local_path(next_page) if next_page else f"/projects/{project.slug}/exclusions"
