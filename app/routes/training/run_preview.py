"""What a new run would be trained on, and what it would cost, under what its form says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.models import Counts, Import, Project, Snapshot, Statistics, Worker
from app.routes.training.run_form import Form
from app.services.collecting.imports import load
from app.services.datasets import figures, snapshots
from app.services.training import estimates, run_settings
from app.services.training.estimates import Estimate
from app.services.training.parents import Parent


@dataclass(frozen=True, slots=True)
class Dataset:
    """What would be trained on: the project as it is now, or a snapshot that is frozen already. Of a large project `counts` and
    `statistics` are those of `as_of`, and None until they are computed for the first time. `arriving`: files that are being
    imported, of which a run that starts now gets what has come."""

    sentence: str
    counts: Counts | None
    statistics: Statistics | None
    snapshot: Snapshot | None = None
    as_of: datetime | None = None
    arriving: Sequence[Import] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps and what earlier runs of the kind needed; `problem` where the settings don't fit together.

    slow: why a setting makes the run slow on the workers that are there; empty where none does.
    """

    steps: int = 0
    estimate: Estimate | None = None
    problem: str = ""
    slow: str = ""


def checked(form: Form, parent: Parent | None) -> dict[str, Any]:
    """The form's settings, checked. Raises Invalid."""
    return parent.config(form.config()) if parent else run_settings.validate(form.config())


def dataset(engine: Engine, session: Session, project: Project, form: Form) -> Dataset:
    if form.snapshot_id is not None:
        frozen = snapshots.of_project(session, project=project, snapshot_id=form.snapshot_id)
        text = f"Snapshot {frozen.number}: {frozen.counts.train:,} pairs to train on and {frozen.counts.eval:,} to evaluate with."
        return Dataset(text, frozen.counts, frozen.statistics, frozen)
    return replace(_as_it_is(engine, session, project, form), arriving=load.arriving(session, project=project))


def _as_it_is(engine: Engine, session: Session, project: Project, form: Form) -> Dataset:
    try:
        rule = form.checked_rule()
    except Invalid:
        rule = {}
    try:
        known = figures.look(session, project=project, rule=rule)
    except Conflict as error:  # snapshots of an earlier version are still to be looked through
        return Dataset(str(error), None, None)
    if known.is_due:
        figures.refresh(engine, project_id=project.id, rule=rule)
    if known.preview is None:
        return Dataset(
            "The pairs of this project are being counted. A run trains on those that there are when it starts.",
            None,
            None,
        )
    return Dataset(known.preview.sentence, known.preview.counts, known.preview.statistics, as_of=known.as_of)


def cost(session: Session, form: Form, parent: Parent | None, data: Dataset, able: list[Worker]) -> Cost:
    try:
        if parent is not None:
            parent.base(form.base_model)
        config = checked(form, parent)
    except Invalid as error:
        return Cost(problem=str(error))
    slow = run_settings.slow_on(config, able)
    pairs = data.counts.train if data.counts else 0
    if not pairs:
        return Cost(slow=slow)
    estimate = estimates.estimate(session, base_model=form.base_model, config=config, pairs=pairs)
    return Cost(-(-estimate.pairs // int(config["batch_size"])), estimate, slow=slow)
