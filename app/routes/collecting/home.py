"""The first page, the project switcher and the choice of colours."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.models import ProjectRole, Role
from app.security import local_path
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.collecting import projects
from app.services.collecting.projects import Overview
from app.services.loop import guesses
from app.services.loop.removal import projects as removal
from app.web.deps import CallerDep, SessionDep, UserDep
from app.web.templating import THEMES, redirect, render

router = APIRouter()
YEAR = 365 * 86400


@dataclass(frozen=True)
class ProjectsPage:
    """`deleting`: names of projects of which something is still to be removed, for admins."""

    overviews: list[Overview]
    deleting: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MenuFragment:
    """`guess`: the slug of the project that the page is of, where a batch that has ended asks its reader which answers were new."""

    overviews: list[Overview] = field(default_factory=list)
    guess: str = ""


@router.get("/")
def home(request: Request, session: SessionDep, user: UserDep, caller: CallerDep) -> Response:
    """Everybody's projects; an evaluator with one project goes straight to the desk."""
    overviews = projects.listing(session, caller=caller)
    if user.role is Role.EVALUATOR and [one.role for one in overviews] == [ProjectRole.EVALUATOR]:
        return redirect(f"/projects/{overviews[0].project.slug}/compare")
    return render(request, "collecting/home/show.html", projects_page(session, caller, overviews))


def projects_page(session: Session, caller: Caller, overviews: list[Overview]) -> ProjectsPage:
    going = removal.deleting(session) if caller.role is Role.ADMIN else []
    return ProjectsPage(overviews, [project.name for project in going])


@router.get("/menu/projects")
def menu(
    request: Request,
    session: SessionDep,
    user: UserDep,
    caller: CallerDep,
    project: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The rest of the project menu, once it is opened. `project`: the slug of the page's project."""
    open_projects = [one for one in projects.listing(session, caller=caller) if one.project.archived_at is None]
    place = access.find(session, caller=caller, of="slug", value=project) if project else None
    asked = place is not None and guesses.is_waiting(session, project=place[0], user=user)
    return render(
        request, "collecting/home/menu.html", MenuFragment(open_projects, project if asked else ""), block="menu"
    )


@router.post("/theme")
def theme(
    request: Request, theme: Annotated[str, Form()] = "auto", next: Annotated[str, Form()] = "/"
) -> RedirectResponse:
    """Light, dark or as the system; kept in a cookie so that no page flashes in the other one first."""
    response = redirect(local_path(next))
    site = request.app.state.settings.site
    response.set_cookie(
        site.theme_cookie,
        theme if theme in THEMES else "auto",
        max_age=YEAR,
        path=site.cookie_path,
        samesite="lax",
        httponly=True,
        secure=site.is_secure,
    )
    return response
