"""prefloop train"""

from typing import Annotated

import typer

from app.commands.context import acting_user, console
from app.commands.jobs import watch_job
from app.commands.options import ActAs
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Invalid
from app.models import JobKind
from app.services.collecting import projects
from app.services.datasets import snapshots
from app.services.jobs import workers
from app.services.training import parents, run_settings
from app.services.training import runs as run_service
from app.storage import get_storage


def train(
    slug: str,
    model: Annotated[str | None, typer.Option(help="Base model. Default: the project's.")] = None,
    snapshot: Annotated[int | None, typer.Option(help="Snapshot id. Default: freeze the current dataset.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Configuration as key=value; may be repeated.")
    ] = None,
    from_checkpoint: Annotated[
        int | None,
        typer.Option(help="Start from this checkpoint, which is the reference too. Default: from the base model."),
    ] = None,
    new_pairs_only: Annotated[
        bool,
        typer.Option(
            "--new-pairs-only",
            help="With --from-checkpoint: only pairs that it, and what it comes from, wasn't trained on.",
        ),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    as_user: ActAs = None,
) -> None:
    """Train on the project's current dataset (or on a snapshot)."""
    config = run_settings.parse(settings or [])
    with read_session() as session:
        by, project = acting_user(session, as_user), projects.get(session, slug)
        parent = parents.find(session, from_checkpoint) if from_checkpoint is not None else None
        living = workers.alive(session, silent_after=get_settings().worker_lease_seconds)
        slow = run_settings.slow_on(run_settings.validate(config), workers.able(living, JobKind.TRAINING))
    if new_pairs_only and snapshot is not None:
        raise run_service.frozen_already(snapshot)
    base = model or (parent.base_model if parent else project.default_base_model)
    if not base:
        raise Invalid(
            f"Project {slug} has no default base model.", "Name one: --model NAME (see: prefloop models list)"
        )
    if slow:
        console.print(f"Slow: {slow}", style="yellow")
    if snapshot is None:
        storage = get_storage(get_settings())
        run = run_service.train_on_current(
            get_engine(),
            project=project,
            by_id=by.id,
            base_model=base,
            config=config,
            storage=storage,
            parent=parent,
            new_pairs_only=new_pairs_only,
        )
    else:
        run_service.require(get_settings(), base_model=base, config=config, parent=parent)
        with write_session() as session:
            run = run_service.create(
                session,
                snapshot=snapshots.get(session, snapshot),
                base_model=base,
                config=config,
                by=by,
                parent=parent,
            )
    number = run.job_id
    console.print(
        f"Queued run {number}. Follow it: prefloop jobs watch {number}, or {get_settings().base_url}/jobs/{number}"
    )
    if watch:
        watch_job(number)
