"""Workers, for admins: who does which kinds of jobs, on what, and whether it still lives."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import JobKind
from app.services.jobs import waiting, workers
from app.services.jobs.jobs import NOUNS
from app.services.jobs.workers import Status
from app.web.deps import AdminDep, SessionDep, SettingsDep
from app.web.templating import is_fragment, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class WorkersPage:
    """`unable`: what people call the queued jobs that no living worker can do, such as `exports`."""

    workers: list[Status]
    queued: int
    unable: list[str]
    nouns: dict[str, str]
    lease_seconds: float


@router.get("/workers")
def listing(request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    silent_after = settings.worker_lease_seconds
    page = WorkersPage(
        workers=workers.listing(session, silent_after=silent_after),
        queued=waiting.count(session, kinds=list(JobKind)),
        unable=[f"{NOUNS[kind]}s" for kind in waiting.unable(session, silent_after=silent_after)],
        nouns={kind.value: noun for kind, noun in NOUNS.items()},
        lease_seconds=silent_after,
    )
    return render(request, "ops/workers/list.html", page, block="workers" if is_fragment(request) else None)
