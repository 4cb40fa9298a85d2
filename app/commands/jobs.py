"""prefloop jobs …"""

import time
from enum import StrEnum
from typing import Annotated

import orjson
import typer
from sqlalchemy.orm import Session

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import read_session, write_session
from app.events import log as events
from app.events.reading import of_row
from app.events.types import Logged, StepTaken
from app.models import FINISHED, Job, JobEvent, JobKind, Project
from app.services.jobs import jobs as job_service
from app.services.jobs import waiting
from app.services.jobs.jobs import NOUNS
from app.services.training import runs as run_service

jobs = typer.Typer(no_args_is_help=True, help="Jobs: training runs, exports.")


def _line(row: JobEvent) -> str:
    event = of_row(row)
    if isinstance(event, StepTaken):
        keys = ("loss", "rewards/margins", "rewards/accuracies", "learning_rate", "grad_norm")
        metrics = event.numbers()
        figures = [f"{key} {metrics[key]:.4g}" for key in keys if key in metrics]
        return f"step {event.step}: " + ", ".join(figures) if figures else f"step {event.step} of {event.total_steps}"
    if isinstance(event, Logged):
        return event.message or ""
    return f"{event.type}: " + ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event.data.items()
        if key != "time" and isinstance(value, str | int | float)
    )


def _name(job: Job) -> str:
    return f"{NOUNS[job.kind].capitalize()} {job.id}"


class ListedKind(StrEnum):
    """Which jobs a list shows: those of one kind, or all."""

    TRAINING = JobKind.TRAINING.value
    EXPORT = JobKind.EXPORT.value
    GENERATION = JobKind.GENERATION.value
    LABEL_CHECK = JobKind.LABEL_CHECK.value
    ALL = "all"


@jobs.command("list")
def list_jobs(
    slug: Annotated[str | None, typer.Argument()] = None,
    kind: Annotated[ListedKind, typer.Option(help="Which kind of jobs.")] = ListedKind.TRAINING,
    as_json: AsJson = False,
) -> None:
    """Show the jobs, the newest first: training runs unless another kind is asked for."""
    with read_session() as session:
        project = _project(session, slug) if slug else None
        wanted = None if kind is ListedKind.ALL else JobKind(kind.value)
        rows = job_service.listing(session, project=project, kind=wanted).items
        trained = run_service.of_jobs(session, job_ids=[row.id for row in rows])
        show(
            (
                {
                    "id": row.id,
                    "kind": row.kind.value,
                    "state": row.state.value,
                    "stage": row.phase,
                    "step": row.step,
                    "of": row.total_steps,
                    "base_model": trained[row.id].base_model if row.id in trained else "",
                    "created": row.created_at,
                    "error": row.error,
                }
                for row in rows
            ),
            as_json=as_json,
            empty="No jobs yet. Start one: prefloop train PROJECT",
        )


def _project(session: Session, slug: str) -> Project:
    from app.services.collecting import projects  # with all of collecting, which a list of jobs doesn't need

    return projects.get(session, slug)


@jobs.command("show")
def show_job(job_id: int) -> None:
    """Show a job as JSON."""
    with read_session() as session:
        row = job_service.get(session, job_id)
        names = [column.key for column in row.__table__.columns if column.key != "lease_token"]
        told = {"stage" if name == "phase" else name: getattr(row, name) for name in names}
        if run := run_service.of_jobs(session, job_ids=[job_id]).get(job_id):
            told |= {column.key: getattr(run, column.key) for column in run.__table__.columns if column.key != "job_id"}
        if place := waiting.of(session, jobs=[row], silent_after=get_settings().worker_lease_seconds).get(job_id):
            told["waiting"] = place.text
        print(orjson.dumps(told, default=str, option=orjson.OPT_INDENT_2).decode())


@jobs.command("watch")
def watch_job(job_id: int) -> None:
    """Print a job's events until it ends; exit status 1 when it did not succeed."""
    follow(job_id)


def follow(job_id: int) -> None:
    """Print a job's events until it ends. Raises typer.Exit(1) when it did not succeed."""
    last = 0
    while True:
        with read_session() as session:
            job = job_service.get(session, job_id)
            batch = events.after(session, job_id=job_id, after=last)
        for event in batch:
            console.print(_line(event))
            last = event.id
        if job.state in FINISHED and not batch:
            break
        if not batch:
            time.sleep(get_settings().stream_poll_seconds)
    console.print(f"{_name(job)} {job.state.value}." + (f" {job.error}" if job.error else ""))
    if job.state.value != "succeeded":
        raise typer.Exit(1)


@jobs.command("cancel")
def cancel_job(job_id: int, as_user: ActAs = None) -> None:
    """Cancel a job; what it needs to go on is kept for a retry."""
    with write_session() as session:
        job = job_service.cancel(session, job=job_service.get(session, job_id), by=acting_user(session, as_user))
    console.print(
        f"{_name(job)} was asked to stop." if job.state not in FINISHED else f"{_name(job)} is {job.state.value}."
    )


@jobs.command("retry")
def retry_job(job_id: int, as_user: ActAs = None) -> None:
    """Put a failed or cancelled job back into the queue; it goes on from what its last attempt kept."""
    with write_session() as session:
        job = job_service.retry(session, job=job_service.get(session, job_id), by=acting_user(session, as_user))
    console.print(f"{_name(job)} is queued again.")
