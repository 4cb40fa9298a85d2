"""Runs: the list, one run's page and its stream; any job's page, cancel and retry."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from app.db import read_session
from app.errors import Conflict
from app.events import wire
from app.models import FINISHED, JobKind, JobState, Project, TrainingRun
from app.paging import Page
from app.routes.training import job_page, run_page, run_stream
from app.services.jobs import jobs, workers
from app.services.training import outcome, runs
from app.services.training.outcome import Verdict
from app.web.deps import EngineDep, EngineerDep, RowId, SessionDep, SettingsDep, WatcherDep
from app.web.templating import is_fragment, redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class RunsPage:
    """`trains`: whether a worker lives that does training runs."""

    project: Project
    page: Page[TrainingRun]
    state: str
    active: bool
    verdicts: dict[int, Verdict]
    trains: bool
    states: tuple[str, ...] = tuple(JobState)


@router.get("/projects/{slug}/runs")
def listing(
    request: Request, session: SessionDep, here: EngineerDep, settings: SettingsDep, state: str = "", page: int = 1
) -> Response:
    project = here.project
    wanted = JobState(state) if state in set(JobState) else None
    shown = runs.listing(session, project=project, state=wanted, page=page, size=25)
    told = {run.job_id: outcome.verdict(run.metrics) for run in shown.items if run.job.state is JobState.SUCCEEDED}
    living = workers.alive(session, silent_after=settings.worker_lease_seconds)
    trains = bool(workers.able(living, JobKind.TRAINING))
    active = any(run.job.state not in FINISHED for run in shown.items)
    return render(
        request,
        "training/jobs/list.html",
        RunsPage(project, shown, wanted or "", active, told, trains),
        block="runs" if is_fragment(request) else None,
    )


@router.get("/jobs/{job_id}")
def show(job_id: RowId, request: Request, session: SessionDep, _: EngineerDep, settings: SettingsDep) -> Response:
    job = jobs.get(session, job_id)
    if job.kind is JobKind.TRAINING:
        run = runs.get(session, job_id)
        return render(request, "training/jobs/show.html", run_page.page(session, run=run, settings=settings))
    return render(
        request,
        "training/jobs/job.html",
        job_page.page(session, job=job, settings=settings),
        block="job" if is_fragment(request) else None,
    )


@router.get("/jobs/{job_id}/stream")
def stream(
    job_id: RowId,
    request: Request,
    _: WatcherDep,
    settings: SettingsDep,
    engine: EngineDep,
    after: int = 0,
    wait: bool = True,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """What the run's page doesn't show yet; goes on after `Last-Event-ID`, or after `after` for a page just loaded.
    `wait=false` ends with what is there, for a page that may not keep a connection."""
    with read_session(engine) as session:
        runs.check(session, job_id)
    start = wire.parse_id(last_event_id, default=max(after, 0))
    told = run_stream.messages(request, job_id=job_id, after=start, wait=wait, engine=engine, settings=settings)
    return StreamingResponse(
        told, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: RowId, session: SessionDep, here: EngineerDep, settings: SettingsDep) -> Response:
    try:
        jobs.cancel(session, job=jobs.get(session, job_id), by=here.user)
    except Conflict as over:  # it ended while somebody read the page: the page says how
        return redirect(f"/jobs/{job_id}", str(over))
    return redirect(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/retry")
def retry(job_id: RowId, session: SessionDep, here: EngineerDep, settings: SettingsDep) -> Response:
    try:
        jobs.retry(session, job=jobs.get(session, job_id), by=here.user)
    except Conflict as not_now:
        return redirect(f"/jobs/{job_id}", str(not_now))
    return redirect(f"/jobs/{job_id}")
