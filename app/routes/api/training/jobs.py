"""Jobs over the API: start a run, watch a job of any kind, cancel it, try it again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, StreamingResponse

from app.config import Settings
from app.db import read_session, write_session
from app.events import feed, wire
from app.events import log as events
from app.models import EventType, Job, JobKind, JobState, TrainingRun, User
from app.services.datasets import snapshots
from app.services.jobs import jobs, waiting
from app.services.training import runs
from app.web.deps import (
    ApiCallerApartDep,
    ApiCallerDep,
    ApiEngineerDep,
    EngineDep,
    SessionDep,
    SettingsDep,
    StorageDep,
    client_address,
    parent_to_train,
    project_to_train,
)
from app.web.problems import problems
from app.web.sse import feed_of

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
    from_checkpoint: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="Start from this checkpoint, which is the reference too, instead of the base model.",
    )
    new_pairs_only: bool = Field(
        False,
        description="With `project` and `from_checkpoint`: only pairs that it, and what it comes from, wasn't trained on.",
    )


class JobOut(BaseModel):
    """A job of any kind as it stands. `waiting`: what a queued one waits for, empty otherwise."""

    id: int
    kind: JobKind
    project: str
    state: JobState
    stage: str
    waiting: str
    step: int
    total_steps: int | None
    eta_seconds: float | None
    error: str
    error_code: str
    attempts: int
    worker: str
    cancel_requested: bool
    started_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunOut(JobOut):
    """A training run as it stands: a job of kind `training`."""

    snapshot_id: int
    snapshot_number: int
    snapshot_sha256: str
    base_model: str
    from_checkpoint: int | None = Field(description="What it starts from; null: its base model.")
    config: dict[str, Any]
    note: str
    metrics: dict[str, Any]


AnyJobOut = RunOut | JobOut


def jobs_out(session: Session, rows: Sequence[Job], settings: Settings) -> list[AnyJobOut]:
    """Jobs with their project and starter loaded, each with what its kind adds."""
    queue = waiting.of(session, jobs=rows, silent_after=settings.worker_lease_seconds)
    trained = runs.of_jobs(session, job_ids=[job.id for job in rows if job.kind is JobKind.TRAINING])
    shown: list[AnyJobOut] = []
    for job in rows:
        common = _common(job, queue[job.id].text if job.id in queue else "")
        shown.append(RunOut(**common, **_of_run(trained[job.id])) if job.id in trained else JobOut(**common))
    return shown


def _common(job: Job, waits_for: str) -> dict[str, Any]:
    same = (name for name in JobOut.model_fields if hasattr(Job, name) and name != "project")
    return {name: getattr(job, name) for name in same} | {
        "project": job.project.slug,
        "stage": job.phase,
        "waiting": waits_for,
        "cancel_requested": job.cancel_requested_at is not None,
        "started_by": job.created_by.username if job.created_by else None,
    }


def _of_run(run: TrainingRun) -> dict[str, Any]:
    names = ("snapshot_id", "base_model", "config", "note", "metrics")
    return {name: getattr(run, name) for name in names} | {
        "snapshot_number": run.snapshot.number,
        "snapshot_sha256": run.snapshot.sha256,
        "from_checkpoint": run.parent_id,
    }


def job_out(session: Session, job_id: int, settings: Settings) -> AnyJobOut:
    """One job as it stands now. Raises NotFound."""
    return jobs_out(session, [jobs.get(session, job_id)], settings)[0]


class JobsOut(BaseModel):
    items: list[AnyJobOut]
    page: int
    pages: int
    total: int


class EventOut(BaseModel):
    """What happened, with the engine's own fields beside these."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(description="Pass the last one as `after` to go on.")
    event: EventType
    step: int | None
    time: float = Field(description="Unix seconds.")


class EventsOut(BaseModel):
    items: list[EventOut]
    after: int = Field(description="The id to pass as `after` next time.")
    over: bool = Field(description="True when the job is over and nothing follows.")


@router.post("/jobs", status_code=201, responses=problems(404, 409))
def create(
    body: NewJob,
    request: Request,
    caller: ApiCallerApartDep,
    engine: EngineDep,
    settings: SettingsDep,
    storage: StorageDep,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> AnyJobOut:
    """Queue a training run. With an `Idempotency-Key`, a repeated request answers with the same job."""
    if body.new_pairs_only and body.snapshot_id is not None:
        raise runs.frozen_already(body.snapshot_id)
    of, value = ("snapshot_id", body.snapshot_id) if body.snapshot_id is not None else ("slug", body.project or "")
    with read_session(engine) as session:
        project = project_to_train(session, caller=caller, of=of, value=value)
        parent = parent_to_train(session, caller=caller, checkpoint_id=body.from_checkpoint)
    base_model = body.base_model or (parent.base_model if parent else project.default_base_model)
    if body.snapshot_id is not None:
        runs.require(settings, base_model=base_model, config=body.config, parent=parent)
        with write_session(engine) as session:
            session.info["address"] = client_address(request)
            run = runs.create(
                session, snapshot=snapshots.get(session, body.snapshot_id), base_model=base_model,
                config=body.config, by=session.get_one(User, caller.user_id), parent=parent, idempotency_key=idempotency_key,
                note=body.note,
            )  # fmt: skip
    else:
        run = runs.train_on_current(
            engine, project=project, by_id=caller.user_id, base_model=base_model,
            config=body.config, storage=storage, parent=parent, new_pairs_only=body.new_pairs_only,
            idempotency_key=idempotency_key, note=body.note,
            address=client_address(request),
        )  # fmt: skip
    with read_session(engine) as session:
        return job_out(session, run.job_id, settings)


@router.get("/jobs", responses=problems(404))
def listing(
    session: SessionDep,
    caller: ApiCallerDep,
    settings: SettingsDep,
    project: Annotated[str | None, Query(max_length=64)] = None,
    kind: Annotated[JobKind | Literal["all"], Query(description="`all`: every kind.")] = JobKind.TRAINING,
    state: JobState | None = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobsOut:
    """Jobs of the projects that you are an engineer of, newest first: training runs unless another kind is asked for."""
    of = project_to_train(session, caller=caller, of="slug", value=project) if project is not None else None
    wanted = None if kind == "all" else JobKind(kind)
    shown = jobs.listing(session, project=of, caller=caller, kind=wanted, state=state, page=page, size=size)
    items = jobs_out(session, shown.items, settings)
    return JobsOut(items=items, page=shown.number, pages=shown.pages, total=shown.total)


@router.get("/jobs/{job_id}", responses=problems(404))
def show(job_id: JobId, session: SessionDep, _: ApiEngineerDep, settings: SettingsDep) -> AnyJobOut:
    """One job."""
    return job_out(session, job_id, settings)


@router.post("/jobs/{job_id}/cancel", responses=problems(404, 409))
def cancel(job_id: JobId, session: SessionDep, here: ApiEngineerDep, settings: SettingsDep) -> AnyJobOut:
    """Cancel a queued job at once, or ask the worker of a running one to stop; it saves what it needs to go on first."""
    job = jobs.cancel(session, job=jobs.get(session, job_id), by=here.user)
    return job_out(session, job.id, settings)


@router.post("/jobs/{job_id}/retry", responses=problems(404, 409))
def retry(job_id: JobId, session: SessionDep, here: ApiEngineerDep, settings: SettingsDep) -> AnyJobOut:
    """Queue a failed or cancelled job again; it goes on from what its last attempt kept."""
    job = jobs.retry(session, job=jobs.get(session, job_id), by=here.user)
    return job_out(session, job.id, settings)


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
        after = wire.parse_id(last_event_id, default=after)
        newest = events.last(session, job_id=job_id)
        if newest is not None and newest.id <= after and events.is_end(newest):
            return Response(status_code=204)
        return stream_of(feed.stream(feed_of(request.app), job_id=job_id, after=after))
    rows = events.after(session, job_id=job_id, after=after, limit=limit)
    over = len(rows) < limit and events.is_end(events.last(session, job_id=job_id))
    page = {"items": [wire.as_json(row) for row in rows], "after": rows[-1].id if rows else after, "over": over}
    return JSONResponse(page)


def stream_of(chunks: Any) -> StreamingResponse:
    """Server-sent events that no proxy on the way holds back."""
    headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
