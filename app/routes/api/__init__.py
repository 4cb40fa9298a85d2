"""/api/v1: JSON for scripts, with Bearer tokens. Every page's action is here too, on the same services."""

from fastapi import APIRouter

from app.routes.api.accounts import members, people
from app.routes.api.collecting import imports, judgments, projects
from app.routes.api.datasets import extracts, snapshots
from app.routes.api.loop import (
    aliases,
    endpoints,
    evaluations,
    exclusions,
    generations,
    guesses,
    lineage,
    progress,
    removal,
    rounds,
    verdicts,
)
from app.routes.api.ops import storage
from app.routes.api.training import checkpoints, exports, jobs
from app.web.problems import problems

router = APIRouter(prefix="/api/v1", responses=problems(400, 401, 403, 413, 422, 503))
for part in (people, projects, members, imports, judgments, snapshots, extracts):
    router.include_router(part.router)
router.include_router(jobs.router)
router.include_router(checkpoints.router)
router.include_router(exports.router)
router.include_router(generations.router)
router.include_router(endpoints.router)
router.include_router(evaluations.router)
router.include_router(verdicts.router)
router.include_router(aliases.router)
router.include_router(progress.router)
router.include_router(guesses.router)
router.include_router(rounds.router)
router.include_router(storage.router)
router.include_router(exclusions.router)
router.include_router(removal.router)
router.include_router(lineage.router)
