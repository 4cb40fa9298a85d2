"""Archiving, bringing back and deleting a project, and erasing a person."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from app.routes.api.collecting.projects import ProjectOut, Slug
from app.services.collecting import projects as collecting
from app.services.loop.removal import people, projects
from app.services.loop.removal.people import Votes
from app.web.deps import ApiAdminApartDep, ApiEngineerDep, EngineDep, SessionDep, StorageDep, client_address
from app.web.problems import problems

router = APIRouter()


class TypedName(BaseModel):
    name: str = Field(max_length=200, description="The project's name, as a person types it to be sure.")


class Deleting(BaseModel):
    slug: str
    state: str = "deleting"


class EraseIn(BaseModel):
    votes: Votes = Field(Votes.KEEP, description="`exclude`: their votes are left out of new snapshots.")


class HeldOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    project: str
    number: int


class ErasedOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    user_id: int
    now_called: str
    judgments: int
    excluded: bool
    extracts_removed: int = Field(description="Extracts that named them; they can be made again.")
    snapshots: list[HeldOut] = Field(description="Made before from their votes. Their files hold no names.")
    checkpoints: list[HeldOut] = Field(description="Whose files name them as who started the run.")


@router.post("/projects/{slug}/archive", responses=problems(404), tags=["projects"])
def archive_project(slug: Slug, session: SessionDep, here: ApiEngineerDep) -> ProjectOut:
    """Make a project one that can only be looked at: nobody is asked in it, and what changes it answers 409
    (`project_archived`)."""
    collecting.archive(session, project=here.project, by=here.user)
    return ProjectOut.model_validate(here.project)


@router.post("/projects/{slug}/bring-back", responses=problems(404), tags=["projects"])
def bring_back_project(slug: Slug, session: SessionDep, here: ApiEngineerDep) -> ProjectOut:
    """Make an archived project one in which people work."""
    collecting.bring_back(session, project=here.project, by=here.user)
    return ProjectOut.model_validate(here.project)


@router.post("/projects/{slug}/delete", status_code=202, responses=problems(404, 409), tags=["projects"])
def delete_project(slug: Slug, body: TypedName, session: SessionDep, here: ApiEngineerDep) -> Deleting:
    """Delete a project with everything of it, also stored files, in the background. 409 while a job of it runs or another
    project rests on its results. The audit trail stays."""
    projects.begin(session, project=here.project, name=body.name, by=here.user)
    return Deleting(slug=slug)


@router.post("/users/{username}/erase", responses=problems(404, 409), tags=["people"])
def erase_user(
    username: str,
    request: Request,
    user: ApiAdminApartDep,
    engine: EngineDep,
    storage: StorageDep,
    body: EraseIn = EraseIn(),
) -> ErasedOut:
    """Erase a person: name and account go out of all rows, what they judged stays as a former evaluator's or is left out of
    what is trained from now on. What was made before is named in the answer."""
    erased: Any = people.erase(
        engine,
        storage,
        username=username,
        by_id=user.id,
        votes=body.votes,
        address=client_address(request),
    )
    return ErasedOut.model_validate(erased)
