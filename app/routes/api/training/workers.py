"""Workers over the API: who is there, and what each does."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from app.services.accounts.access import Caller
from app.services.jobs import workers
from app.web.deps import ApiMakerDep, SessionDep, SettingsDep

router = APIRouter(tags=["jobs"])


class WorkerOut(BaseModel):
    """A worker. `kinds`: the kinds of jobs that it can do; `version`: Prefloop's."""

    name: str
    alive: bool
    device: str
    memory_bytes: int | None
    version: str
    kinds: list[str]
    versions: dict[str, Any]
    job_id: int | None
    started_at: datetime
    heartbeat_at: datetime

    @classmethod
    def of(cls, status: workers.Status) -> "WorkerOut":
        row = status.worker
        return cls(
            name=row.name,
            alive=status.alive,
            device=row.device,
            memory_bytes=row.memory_bytes,
            version=row.version,
            kinds=row.kinds,
            versions=row.versions,
            job_id=status.job.id if status.job else None,
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
        )


@router.get("/workers")
def list_workers(user: ApiMakerDep, session: SessionDep, settings: SettingsDep) -> list[WorkerOut]:
    """Every worker that was heard lately, alive or not, and the job that it does if that is in a project of yours."""
    silent_after = settings.worker_lease_seconds
    return [WorkerOut.of(one) for one in workers.listing(session, silent_after=silent_after, caller=Caller.of(user))]
