"""A person's own judgments, and the way back to each."""

from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import Project
from app.paging import Page
from app.routes.collecting.compare import SAID, STRENGTHS
from app.services.collecting import judgments, listing
from app.services.collecting.listing import Entry, Progress
from app.services.loop import guesses
from app.web.deps import MemberDep, SessionDep
from app.web.templating import render

router = APIRouter()


@dataclass(frozen=True)
class HistoryPage:
    project: Project
    entries: Page[Entry]
    progress: Progress
    asks_which_was_new: bool
    said: dict[str, str] = field(default_factory=lambda: SAID)
    strengths: dict[int, str] = field(default_factory=lambda: STRENGTHS)
    flag_names: dict[str, str] = field(default_factory=lambda: judgments.FLAGS)


@router.get("/projects/{slug}/history")
def show(request: Request, session: SessionDep, here: MemberDep, page: int = 1) -> Response:
    project, user = here.project, here.user
    return render(
        request,
        "collecting/history/show.html",
        HistoryPage(
            project,
            listing.history(session, project=project, user=user, page=page, size=25),
            listing.progress(session, project=project, user=user),
            guesses.is_waiting(session, project=project, user=user),
        ),
    )
