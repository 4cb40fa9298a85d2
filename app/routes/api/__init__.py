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
    label_checks,
    lineage,
    person_studies,
    progress,
    removal,
    rounds,
    trials,
    verdicts,
)
from app.routes.api.ops import storage
from app.routes.api.training import checkpoints, exports, jobs, workers
from app.web.problems import problems

router = APIRouter(prefix="/api/v1", responses=problems(400, 401, 403, 413, 422, 503))
for part in (
    people,
    projects,
    members,
    imports,
    judgments,
    snapshots,
    extracts,
    jobs,
    workers,
    checkpoints,
    exports,
    generations,
    endpoints,
    evaluations,
    verdicts,
    aliases,
    progress,
    guesses,
    rounds,
    trials,
    storage,
    exclusions,
    removal,
    lineage,
    label_checks,
    person_studies,
):
    router.include_router(part.router)
