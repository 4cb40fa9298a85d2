"""After a batch: a page on which whoever judged it guesses which answer was new."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.models import Project, ProjectRole
from app.services.loop import guesses
from app.services.loop.guesses import Guessed, Riddle
from app.web.deps import MemberDep, SessionDep
from app.web.templating import redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class GuessPage:
    project: Project
    riddle: Riddle | None
    sees_verdicts: bool


@router.get("/projects/{slug}/guess")
def show(request: Request, session: SessionDep, here: MemberDep) -> Response:
    riddle = guesses.following(session, project=here.project, user=here.user)
    page = GuessPage(here.project, riddle, here.role.covers(ProjectRole.LEAD))
    return render(request, "loop/guesses/show.html", page)


@router.post("/projects/{slug}/guess")
def record(
    session: SessionDep,
    here: MemberDep,
    pair: Annotated[int, Form(ge=1, le=2**31 - 1)],
    side: Annotated[Guessed, Form()],
) -> Response:
    guesses.record(session, project=here.project, user=here.user, pair_id=pair, side=side)
    return redirect(f"/projects/{here.project.slug}/guess")
