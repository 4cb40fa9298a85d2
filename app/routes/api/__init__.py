"""/api/v1: JSON for scripts, with Bearer tokens. Every page's action is here too, on the same services."""

from fastapi import APIRouter

from app.routes.api import checkpoints, imports, jobs, judgments, people, projects, snapshots
from app.routes.api.problems import problems

router = APIRouter(prefix="/api/v1", responses=problems(400, 401, 403, 413, 422, 503))
for part in (people, projects, imports, judgments, snapshots):
    router.include_router(part.router)
router.include_router(jobs.router)
router.include_router(checkpoints.router)
