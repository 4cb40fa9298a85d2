"""All checkpoints of a project on one scale, over the API."""

from fastapi import APIRouter

from app.routes.api.collecting.projects import Slug
from app.services.loop import progress
from app.services.loop.progress import Progress
from app.web.deps import ApiLeadUploaderDep, EngineDep
from app.web.problems import problems

router = APIRouter(tags=["evaluations"])


@router.get("/projects/{slug}/standings", responses=problems(404))
def standings(slug: Slug, engine: EngineDep, here: ApiLeadUploaderDep) -> Progress:
    """Every checkpoint that was compared blind, in the order in which they were made, by Bradley–Terry against the first."""
    return progress.current(engine, project=here.project)
