"""“Train on current dataset”: what would be trained on, the form, and the one click that freezes and queues."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, PrefloopError
from app.models import Counts, JobKind, Project, Snapshot, Statistics, TrainingRun, User, Worker
from app.routes.training import run_form
from app.routes.training.run_form import RULE_HELP, Form
from app.services.datasets import figures, snapshots
from app.services.jobs import workers
from app.services.training import base_models, estimates, presets, run_settings, runs
from app.services.training.base_models import BaseModel
from app.services.training.estimates import Estimate
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
)
from app.web.templating import redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Dataset:
    """What would be trained on: the project as it is now, or a snapshot that is frozen already. Of a large project `counts` and
    `statistics` are those of `as_of`, and None until they are computed for the first time."""

    sentence: str
    counts: Counts | None
    statistics: Statistics | None
    snapshot: Snapshot | None = None
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps and what earlier runs of the kind needed; `problem` where the settings don't fit together.

    slow: why a setting makes the run slow on the workers that are there; empty where none does.
    """

    steps: int = 0
    estimate: Estimate | None = None
    problem: str = ""
    slow: str = ""


@dataclass(frozen=True, slots=True)
class NewRunPage:
    project: Project
    dataset: Dataset
    form: Form
    cost: Cost
    models: list[BaseModel]
    workers_able: int
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
    project = here.project
    form = _start(session, project, fields, settings)
    return render(request, "training/jobs/new.html", _page(engine, session, project, form, settings))


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
    project = here.project
    page = _page(engine, session, project, run_form.read(fields), settings)
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
    project = here.project
    status, problems = Invalid.status, _problems(form, settings)
    if not problems:
        try:
            run = _queue(engine, here, form, storage, client_address(request))
            return redirect(f"/jobs/{run.job_id}")
        except PrefloopError as error:
            if error.status == 404:
                raise
            status, problems = error.status, {str(error.details.get("field", "")): str(error)}
    with read_session(engine) as session:
        page = _page(engine, session, project, form, settings, problems)
        return render(request, "training/jobs/new.html", page, status=status)


def _problems(form: Form, settings: Settings) -> dict[str, str]:
    """What is wrong with the form, all of it at once, by field."""
    problems = {}
    if form.base_model not in {model.name for model in base_models.list_models(settings)}:
        problems["base_model"] = "Choose a base model. Prepare one with `prefloop models add`."
    try:
        form.checked_rule()
    except Invalid as error:
        problems[str(error.details["field"])] = str(error)
    try:
        run_settings.validate(form.config())
    except Invalid as error:
        problems |= run_settings.problems_of(error)
    return problems


def _queue(engine: Engine, here: Here, form: Form, storage: Storage, address: str) -> TrainingRun:
    wanted: dict[str, Any] = {
        "base_model": form.base_model,
        "config": form.config(),
        "note": form.note.strip(),
        "idempotency_key": form.key or None,
    }
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


def _start(session: Session, project: Project, fields: Mapping[str, str], settings: Settings) -> Form:
    """The form as it opens: empty, on a snapshot (`?snapshot=`), or with the settings of an earlier run (`?from=`)."""
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
    return run_form.read(chosen)


def _page(
    engine: Engine,
    session: Session,
    project: Project,
    form: Form,
    settings: Settings,
    errors: dict[str, str] | None = None,
) -> NewRunPage:
    dataset = _dataset(engine, session, project, form)
    living = workers.alive(session, silent_after=settings.worker_lease_seconds)
    if not form.preset:
        form = replace(form, preset=presets.preset_for(dataset.counts.train if dataset.counts else presets.FEW_PAIRS))
    able = workers.able(living, JobKind.TRAINING)
    return NewRunPage(
        project=project,
        dataset=dataset,
        form=form,
        cost=_cost(session, form, dataset, able),
        models=base_models.list_models(settings),
        workers_able=len(able),
        errors=errors or {},
    )


def _dataset(engine: Engine, session: Session, project: Project, form: Form) -> Dataset:
    if form.snapshot_id is not None:
        frozen = snapshots.of_project(session, project=project, snapshot_id=form.snapshot_id)
        text = f"Snapshot {frozen.number}: {frozen.counts.train:,} pairs to train on and {frozen.counts.eval:,} to evaluate with."
        return Dataset(text, frozen.counts, frozen.statistics, frozen)
    try:
        rule = form.checked_rule()
    except Invalid:
        rule = {}
    known = figures.look(session, project=project, rule=rule)
    if known.is_due:
        figures.refresh(engine, project_id=project.id, rule=rule)
    if known.preview is None:
        return Dataset(
            "The pairs of this project are being counted. A run trains on those that there are when it starts.",
            None,
            None,
        )
    return Dataset(known.preview.sentence, known.preview.counts, known.preview.statistics, as_of=known.as_of)


def _cost(session: Session, form: Form, dataset: Dataset, able: list[Worker]) -> Cost:
    try:
        config = run_settings.validate(form.config())
    except Invalid as error:
        return Cost(problem=str(error))
    slow = run_settings.slow_on(config, able)
    pairs = dataset.counts.train if dataset.counts else 0
    if not pairs:
        return Cost(slow=slow)
    estimate = estimates.estimate(session, base_model=form.base_model, config=config, pairs=pairs)
    return Cost(-(-estimate.pairs // int(config["batch_size"])), estimate, slow=slow)
