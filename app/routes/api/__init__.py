"""/api/v1: JSON for scripts, with Bearer tokens. Every page's action is here too, on the same services."""

from fastapi import APIRouter

from app.routes.api import people
from app.routes.api.problems import problems

router = APIRouter(prefix="/api/v1", responses=problems(400, 401, 403, 413, 422, 503))
router.include_router(people.router)
