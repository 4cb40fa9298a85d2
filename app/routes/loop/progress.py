"""Progress over rounds: every checkpoint of the project on one scale."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import Project
from app.services.loop import progress
from app.services.loop.progress import Progress
from app.web.deps import EngineDep, LeadUploaderDep
from app.web.templating import render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class ProgressPage:
    project: Project
    progress: Progress


@router.get("/projects/{slug}/progress")
def show(request: Request, here: LeadUploaderDep, engine: EngineDep) -> Response:
    page = ProgressPage(here.project, progress.current(engine, project=here.project))
    return render(request, "loop/progress/show.html", page)
