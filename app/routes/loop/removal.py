"""Archiving, bringing back and deleting a project, and erasing a person."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel

from app.errors import Invalid
from app.routes.collecting.projects import ProjectForm, SettingsPage
from app.services.collecting import projects as collecting
from app.services.loop.removal import people, projects
from app.services.loop.removal.people import Erased, Votes
from app.web.deps import AdminApartDep, EngineDep, EngineerDep, SessionDep, StorageDep, client_address
from app.web.templating import redirect, render

router = APIRouter()


class DeleteForm(BaseModel):
    typed_name: str = ""


class EraseForm(BaseModel):
    votes: Votes = Votes.KEEP
    typed_username: str = ""


@dataclass(frozen=True, slots=True)
class ErasedPage:
    erased: Erased


@router.post("/projects/{slug}/archive")
def archive(session: SessionDep, here: EngineerDep) -> Response:
    collecting.archive(session, project=here.project, by=here.user)
    return redirect(f"/projects/{here.project.slug}/settings", "The project is archived: it can only be looked at.")


@router.post("/projects/{slug}/bring-back")
def bring_back(session: SessionDep, here: EngineerDep) -> Response:
    collecting.bring_back(session, project=here.project, by=here.user)
    return redirect(f"/projects/{here.project.slug}/settings", "The project is back.", "good")


@router.post("/projects/{slug}/delete")
def delete(request: Request, session: SessionDep, here: EngineerDep, form: Annotated[DeleteForm, Form()]) -> Response:
    """Hidden with this request; its rows and files go in the background."""
    try:
        projects.begin(session, project=here.project, name=form.typed_name, by=here.user)
    except Invalid as refusal:
        page = SettingsPage(here.project, ProjectForm.of(here.project), {"typed_name": str(refusal)})
        return render(request, "collecting/projects/settings.html", page, status=refusal.status)
    return redirect("/projects", f"“{here.project.name}” is being deleted, with everything of it.")


@router.post("/people/{username}/erase")
def erase(
    username: str,
    request: Request,
    user: AdminApartDep,
    engine: EngineDep,
    storage: StorageDep,
    form: Annotated[EraseForm, Form()],
) -> Response:
    if form.typed_username.strip().lower() != username:
        raise Invalid(
            f"“{form.typed_username[:64]}” isn't this account's user name.", f"Type “{username}” to erase it."
        )
    erased = people.erase(
        engine,
        storage,
        username=username,
        by_id=user.id,
        votes=form.votes,
        address=client_address(request),
    )
    return render(request, "accounts/people/erased.html", ErasedPage(erased))
