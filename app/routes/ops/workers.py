"""Workers, for admins: who trains, on what, and whether it still lives."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.services.jobs import leases, workers
from app.services.jobs.workers import Status
from app.web.deps import AdminDep, SessionDep, SettingsDep
from app.web.templating import is_fragment, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class WorkersPage:
    workers: list[Status]
    queued: int
    lease_seconds: float


@router.get("/workers")
def listing(request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    found = workers.listing(session, silent_after=settings.worker_lease_seconds)
    page = WorkersPage(found, leases.waiting(session), settings.worker_lease_seconds)
    return render(request, "ops/workers/list.html", page, block="workers" if is_fragment(request) else None)
