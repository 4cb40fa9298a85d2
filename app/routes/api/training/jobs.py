"""Training jobs over the API: start, watch, cancel, try again."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, StreamingResponse

from app import events
from app.models import Job, JobState
from app.services.collecting import projects
from app.services.datasets import snapshots
from app.services.jobs import jobs, workers
from app.web.deps import ApiEngineerDep, SessionDep, SettingsDep, StorageDep
from app.web.problems import problems

router = APIRouter(tags=["jobs"])

JobId = Annotated[int, Path(ge=1, le=2**31 - 1)]
EVENT_STREAM = {
    "text/event-stream": {"schema": {"type": "string", "description": "Server-sent events, each with its `id`."}}
}


class NewJob(BaseModel):
    """A run on a snapshot that exists (`snapshot_id`), or on what a project has now (`project`)."""

    model_config = ConfigDict(extra="forbid")

    snapshot_id: int | None = Field(None, ge=1, le=2**31 - 1)
    project: str | None = Field(None, max_length=64, description="Instead of `snapshot_id`: freeze this project first.")
    base_model: str = Field("", max_length=64, description="Empty: the project's default.")
    config: dict[str, Any] = Field({}, description="Settings of the engine, e.g. `beta`, `learning_rate`, `lora_r`.")
    note: str = Field("", max_length=255)


class JobOut(BaseModel):
    """A training run as it stands."""

    id: int
    project: str
    snapshot_id: int
    snapshot_number: int
    snapshot_sha256: str
    base_model: str
    config: dict[str, Any]
    note: str
    state: JobState
    stage: str
    step: int
    total_steps: int | None
    eta_seconds: float | None
    metrics: dict[str, Any]
    error: str
    error_code: str
    attempts: int
    worker: str
    cancel_requested: bool
    started_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> "JobOut":
        own = (name for name in cls.model_fields if hasattr(Job, name) and name != "project")
        return cls(
            **{name: getattr(job, name) for name in own},
            project=job.project.slug,
            snapshot_number=job.snapshot.number,
            snapshot_sha256=job.snapshot.sha256,
            cancel_requested=job.cancel_requested_at is not None,
            started_by=job.created_by.username if job.created_by else None,
        )


class JobsOut(BaseModel):
    items: list[JobOut]
    page: int
    pages: int
    total: int


class EventOut(BaseModel):
    """What happened, with the engine's own fields beside these."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(description="Pass the last one as `after` to go on.")
    event: Literal["state", "step", "eval", "sample", "log", "checkpoint", "done", "error"]
    step: int | None
    time: float = Field(description="Unix seconds.")


class EventsOut(BaseModel):
    items: list[EventOut]
    after: int = Field(description="The id to pass as `after` next time.")
    over: bool = Field(description="True when the job is over and nothing follows.")


class WorkerOut(BaseModel):
    name: str
    alive: bool
    device: str
    memory_bytes: int | None
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
            versions=row.versions,
            job_id=status.job.id if status.job else None,
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
        )


@router.post("/jobs", status_code=201, responses=problems(404, 409))
def create(
    body: NewJob,
    session: SessionDep,
    user: ApiEngineerDep,
    settings: SettingsDep,
    storage: StorageDep,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> JobOut:
    """Queue a training run. With an `Idempotency-Key`, a repeated request answers with the same job."""
    if body.snapshot_id is not None:
        snapshot = snapshots.get(session, body.snapshot_id)
        job = jobs.create(
            session, snapshot=snapshot, base_model=body.base_model or snapshot.project.default_base_model,
            config=body.config, by=user, idempotency_key=idempotency_key, note=body.note,
        )  # fmt: skip
    else:
        project = projects.get(session, body.project or "")
        job = jobs.train_on_current(
            session, project=project, by=user, base_model=body.base_model or project.default_base_model,
            config=body.config, storage=storage, idempotency_key=idempotency_key, note=body.note,
        )  # fmt: skip
    return JobOut.of(jobs.get(session, job.id))


@router.get("/jobs", responses=problems(404))
def listing(
    session: SessionDep,
    _: ApiEngineerDep,
    project: Annotated[str | None, Query(max_length=64)] = None,
    state: JobState | None = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobsOut:
    """Jobs, newest first."""
    of = projects.get(session, project) if project is not None else None
    found = jobs.listing(session, project=of, state=state, page=page, size=size)
    return JobsOut(
        items=[JobOut.of(job) for job in found.items], page=found.number, pages=found.pages, total=found.total
    )


@router.get("/jobs/{job_id}", responses=problems(404))
def show(job_id: JobId, session: SessionDep, _: ApiEngineerDep) -> JobOut:
    """One job."""
    return JobOut.of(jobs.get(session, job_id))


@router.post("/jobs/{job_id}/cancel", responses=problems(404, 409))
def cancel(job_id: JobId, session: SessionDep, user: ApiEngineerDep, settings: SettingsDep) -> JobOut:
    """Cancel a queued job at once, or ask the worker of a running one to stop; it saves its training state first."""
    job = jobs.cancel(session, job=jobs.get(session, job_id), by=user)
    return JobOut.of(jobs.get(session, job.id))


@router.post("/jobs/{job_id}/retry", responses=problems(404, 409))
def retry(job_id: JobId, session: SessionDep, user: ApiEngineerDep, settings: SettingsDep) -> JobOut:
    """Queue a failed or cancelled job again; it goes on from its last training state."""
    job = jobs.retry(session, job=jobs.get(session, job_id), by=user)
    return JobOut.of(jobs.get(session, job.id))


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventsOut,
    responses={
        200: {"content": EVENT_STREAM},
        204: {"description": "Event stream: the job is over and there is nothing more, so don't come back."},
        **problems(404),
    },
)
def job_events(
    job_id: JobId,
    request: Request,
    session: SessionDep,
    _: ApiEngineerDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Only events with a higher id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="JSON: at most so many.")] = 500,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[
        str | None, Header(description="Event stream: overrides `after` when it reconnects.")
    ] = None,
) -> Response:
    """A job's history and what comes: a page of JSON, or (`Accept: text/event-stream`) a stream to its end."""
    jobs.get(session, job_id)
    if "text/event-stream" in accept:
        after = events.parse_id(last_event_id, default=after)
        newest = events.last(session, job_id=job_id)
        if newest is not None and newest.id <= after and events.is_end(newest):
            return Response(status_code=204)
        return stream_of(events.stream(events.feed_of(request.app), job_id=job_id, after=after))
    rows = events.after(session, job_id=job_id, after=after, limit=limit)
    over = len(rows) < limit and events.is_end(events.last(session, job_id=job_id))
    page = {"items": [events.as_json(row) for row in rows], "after": rows[-1].id if rows else after, "over": over}
    return JSONResponse(page)


def stream_of(chunks: Any) -> StreamingResponse:
    """Server-sent events that no proxy on the way holds back."""
    headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


@router.get("/workers")
def list_workers(_: ApiEngineerDep, session: SessionDep, settings: SettingsDep) -> list[WorkerOut]:
    """Every worker that was heard lately, alive or not, and the job that it runs."""
    found = workers.listing(session, silent_after=settings.worker_lease_seconds)
    return [WorkerOut.of(one) for one in found]
