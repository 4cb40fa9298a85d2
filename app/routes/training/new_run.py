"""“Train on current dataset”: what would be trained on, the form, and the one click that freezes and queues."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, settings_of, write_session
from app.errors import Invalid, PrefloopError
from app.models import JobKind, Project, TrainingRun, User
from app.routes.training import freezings as freezings_page
from app.routes.training import run_form, run_preview
from app.routes.training.run_form import RULE_HELP, Form
from app.routes.training.run_preview import Cost, Dataset
from app.services.accounts.access import Caller
from app.services.datasets import snapshots
from app.services.jobs import workers
from app.services.training import base_models, checkpoints, freezings, parents, presets, run_settings, runs
from app.services.training.base_models import BaseModel
from app.services.training.parents import Parent
from app.services.training.presets import PRESETS, Preset
from app.storage import Storage
from app.web.deps import (
    EngineDep,
    EngineerDep,
    EngineerUploaderDep,
    Here,
    SessionDep,
    SettingsDep,
    StorageDep,
    client_address,
    parent_to_train,
)
from app.web.templating import redirect, render

router = APIRouter()
CHECKPOINTS_OFFERED = 10


@dataclass(frozen=True, slots=True)
class NewRunPage:
    """`starts`: what a run may start from, as (value, text): the base model, and the project's newest checkpoints."""

    project: Project
    dataset: Dataset
    form: Form
    cost: Cost
    models: list[BaseModel]
    workers_able: int
    starts: list[tuple[str, str]]
    errors: dict[str, str] = field(default_factory=dict)
    presets: tuple[Preset, ...] = PRESETS
    rule_help: dict[str, str] = field(default_factory=lambda: RULE_HELP)


async def _fields(request: Request) -> dict[str, str]:
    """The form's fields, from the body or from the address."""
    sent: Mapping[str, Any] = await request.form() if request.method == "POST" else request.query_params
    return {name: value for name, value in sent.items() if isinstance(value, str)}


FieldsDep = Annotated[dict[str, str], Depends(_fields)]


@router.get("/projects/{slug}/train")
def show(
    request: Request,
    fields: FieldsDep,
    session: SessionDep,
    engine: EngineDep,
    here: EngineerDep,
    settings: SettingsDep,
) -> Response:
    form = _start(session, here, fields, settings)
    return render(request, "training/jobs/new.html", _page(engine, session, here, form, settings))


@router.get("/projects/{slug}/train/preview")
def preview(
    request: Request,
    fields: FieldsDep,
    session: SessionDep,
    engine: EngineDep,
    here: EngineerDep,
    settings: SettingsDep,
) -> Response:
    """The data and the cost under what the form says now."""
    page = _page(engine, session, here, run_form.read(fields), settings)
    return render(request, "training/jobs/new.html", page, block="preview")


@router.post("/projects/{slug}/train")
def create(
    request: Request,
    fields: FieldsDep,
    here: EngineerUploaderDep,
    engine: EngineDep,
    settings: SettingsDep,
    storage: StorageDep,
) -> Response:
    form = run_form.read(fields)
    with read_session(engine) as session:
        parent = _parent(session, here, form)
    status, problems = Invalid.status, _problems(form, settings, parent)
    if not problems:
        try:
            return _start_run(request, engine, here, form, parent, storage)
        except PrefloopError as error:
            if error.status == 404:
                raise
            status, problems = error.status, {str(error.details.get("field", "")): str(error)}
    with read_session(engine) as session:
        page = _page(engine, session, here, form, settings, problems)
        return render(request, "training/jobs/new.html", page, status=status)


def _parent(session: Session, here: Here, form: Form) -> Parent | None:
    return parent_to_train(session, caller=Caller.of(here.user), checkpoint_id=form.from_checkpoint)


def _problems(form: Form, settings: Settings, parent: Parent | None) -> dict[str, str]:
    """What is wrong with the form, all of it at once, by field."""
    problems = {}
    if form.base_model not in {model.name for model in base_models.list_models(settings)}:
        problems["base_model"] = "Choose a base model. Prepare one with `prefloop models add`."
    try:
        form.checked_rule()
    except Invalid as error:
        problems[str(error.details["field"])] = str(error)
    try:
        runs.rule_for(None, parent=parent, new_pairs_only=form.new_pairs_only)
        if parent is not None and not problems:
            parent.base(form.base_model)
            parents.require(settings, parent)
    except Invalid as error:
        problems[str(error.details["field"])] = str(error)
    try:
        run_preview.checked(form, parent)
    except Invalid as error:
        problems |= run_settings.problems_of(error)
    return problems


def _start_run(
    request: Request, engine: Engine, here: Here, form: Form, parent: Parent | None, storage: Storage
) -> Response:
    """Queues the run, or leads to the page of the freeze that it needs before in a large project."""
    if form.snapshot_id is None:
        with read_session(engine) as session:
            is_large = freezings.is_large(session, here.project)
        if is_large:
            runs.require(settings_of(engine), base_model=form.base_model, config=form.config(), parent=parent)
            run = _wanted(form) | {"from_checkpoint": form.from_checkpoint}
            return freezings_page.begin(request, engine, storage, here, rule=form.checked_rule(), run=run)
    return redirect(f"/jobs/{_queue(engine, here, form, parent, storage, client_address(request)).job_id}")


def _wanted(form: Form) -> dict[str, Any]:
    return {
        "base_model": form.base_model,
        "config": form.config(),
        "note": form.note.strip(),
        "idempotency_key": form.key or None,
    }


def _queue(
    engine: Engine, here: Here, form: Form, parent: Parent | None, storage: Storage, address: str
) -> TrainingRun:
    wanted = _wanted(form) | {"parent": parent}
    if form.snapshot_id is not None:
        with write_session(engine) as session:
            session.info["address"] = address
            snapshot = snapshots.of_project(session, project=here.project, snapshot_id=form.snapshot_id)
            return runs.create(session, snapshot=snapshot, by=session.get_one(User, here.user.id), **wanted)
    return runs.train_on_current(
        engine,
        project=here.project,
        by_id=here.user.id,
        storage=storage,
        rule=form.checked_rule(),
        address=address,
        **wanted,
    )


def _start(session: Session, here: Here, fields: Mapping[str, str], settings: Settings) -> Form:
    """The form as it opens: empty, on a snapshot (`?snapshot=`), from a checkpoint on new pairs only (`?checkpoint=`), or with the
    settings of an earlier run (`?from=`)."""
    project = here.project
    known = [model.name for model in base_models.list_models(settings)]
    model = project.default_base_model if project.default_base_model in known else (known[0] if known else "")
    chosen = {
        "base_model": model,
        "preset": "",
        "key": secrets.token_urlsafe(16),
        "snapshot_id": fields.get("snapshot", ""),
    }
    earlier = fields.get("from", "")
    if earlier.isdecimal() and len(earlier) < 10:
        run = runs.get(session, int(earlier))
        if run.job.project_id != project.id:
            raise runs.missing(run.job_id)
        chosen |= {
            "preset": "standard",
            "base_model": run.base_model if run.base_model in known else model,
            "note": run.note,
        }
        chosen |= run_form.from_config(run.config)
        chosen |= {"from_checkpoint": str(run.parent_id or "")}
    elif parent := _parent(session, here, run_form.read({"from_checkpoint": fields.get("checkpoint", "")})):
        chosen |= {"from_checkpoint": str(parent.checkpoint_id), "base_model": parent.base_model}
        chosen |= {"new_pairs_only": "true"} if not chosen["snapshot_id"] else {}
    return run_form.read(chosen)


def _page(
    engine: Engine,
    session: Session,
    here: Here,
    form: Form,
    settings: Settings,
    errors: dict[str, str] | None = None,
) -> NewRunPage:
    project, parent = here.project, _parent(session, here, form)
    dataset = run_preview.dataset(engine, session, project, form)
    living = workers.alive(session, silent_after=settings.worker_lease_seconds)
    if not form.preset:
        form = replace(form, preset=presets.preset_for(dataset.counts.train if dataset.counts else presets.FEW_PAIRS))
    able = workers.able(living, JobKind.TRAINING)
    return NewRunPage(
        project=project,
        dataset=dataset,
        form=form,
        cost=run_preview.cost(session, form, parent, dataset, able),
        models=base_models.list_models(settings),
        workers_able=len(able),
        starts=_starts(session, project, parent),
        errors=errors or {},
    )


def _starts(session: Session, project: Project, parent: Parent | None) -> list[tuple[str, str]]:
    newest = checkpoints.listing(session, project=project, size=CHECKPOINTS_OFFERED).items
    offered = [
        (str(row.id), f"Checkpoint {row.id} of run {row.job_id}, on {row.run.base_model}, step {row.step:,}")
        for row in newest
    ]
    if parent is not None and str(parent.checkpoint_id) not in dict(offered):
        offered.append((str(parent.checkpoint_id), f"Checkpoint {parent.checkpoint_id}, on {parent.base_model}"))
    return [("", "The base model"), *offered]
