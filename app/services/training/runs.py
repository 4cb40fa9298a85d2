"""Training runs: queue one, find it again, and keep the numbers that its engine prints.

What only queueing needs (freezing, settings, base models) is imported there: lists and pages don't wait for it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session, joinedload

from app import paging
from app.config import Settings
from app.db import read_session, settings_of, write_session
from app.errors import Invalid, NotFound, SnapshotEmpty
from app.events.types import Done, Evaluated, Event, StepTaken
from app.models import Continuation, EventType, Job, JobKind, JobState, Project, Snapshot, TrainingRun, User
from app.services.jobs import jobs
from app.storage import Storage

if TYPE_CHECKING:
    from app.services.training.parents import Parent


def create(
    session: Session,
    *,
    snapshot: Snapshot,
    base_model: str,
    config: dict[str, Any],
    by: User | None,
    parent: "Parent | None" = None,
    idempotency_key: str | None = None,
    note: str = "",
    now: datetime | None = None,
) -> TrainingRun:
    """Queue a training run, from its base model or from a `parent`. The same key from the same person returns the run that it
    made before.

    The caller asks `require_model`, and `parents.require` for a parent, before the transaction. Raises Invalid (the model's name,
    a setting), SnapshotEmpty, Conflict (the key was used for something else).
    """
    from app.services.training import run_settings

    checked = parent.config(config) if parent else run_settings.validate(config)
    base_model = parent.base(base_model) if parent else _checked_name(base_model)
    parent_id = parent.checkpoint_id if parent else None
    wanted = (snapshot.id, base_model, checked, note[:255], parent_id)
    if known := jobs.by_key(session, kind=JobKind.TRAINING, by=by, key=idempotency_key):
        return _same(get(session, known.id), wanted)
    start: dict[str, Any] = {} if parent_id is None else {"from_checkpoint": parent_id}
    if not train_pairs(snapshot):
        raise SnapshotEmpty(
            f"Snapshot {snapshot.number} has no pairs to train on.", "Collect more judgments and freeze again."
        )
    job, is_new = jobs.queue(
        session,
        kind=JobKind.TRAINING,
        project_id=snapshot.project_id,
        by=by,
        idempotency_key=idempotency_key,
        now=now,
        snapshot=snapshot.id,
        base_model=base_model,
        **start,
    )
    if is_new:
        session.add(
            TrainingRun(
                job_id=job.id,
                snapshot_id=snapshot.id,
                base_model=base_model,
                config=checked,
                note=note[:255],
                metrics={},
            )
        )
        session.flush()
        if parent_id is not None:
            session.add(Continuation(job_id=job.id, checkpoint_id=parent_id))
            session.flush()
    return _same(get(session, job.id), wanted)


def train_on_current(
    engine: Engine,
    *,
    project: Project,
    by_id: int,
    base_model: str,
    config: dict[str, Any],
    storage: Storage,
    parent: "Parent | None" = None,
    new_pairs_only: bool = False,
    idempotency_key: str | None = None,
    rule: Any = None,
    note: str = "",
    address: str = "",
    now: datetime | None = None,
    pause: Callable[[], object] = lambda: None,
) -> TrainingRun:
    """Freeze what was judged so far, then queue a run on it. A double click with one key makes one run. `new_pairs_only`: freeze
    what the parent, and what it comes from, wasn't trained on.

    Opens its own sessions, since freezing uploads. Raises what `create`, `parents.require` and `snapshots.freeze` raise.
    """
    from app.services.datasets import snapshots

    with read_session(engine) as session:
        if known := _by_key(session, project, by_id, idempotency_key):
            return known
    # Before a snapshot is made that nobody wanted.
    rule = rule_for(rule, parent=parent, new_pairs_only=new_pairs_only)
    require(settings_of(engine), base_model=base_model, config=config, parent=parent)
    snapshot = snapshots.freeze(
        engine, project=project, by_id=by_id, storage=storage, rule=rule, address=address, now=now, pause=pause
    )
    with write_session(engine) as session:
        session.info["address"] = address
        # The other click of a double click may have frozen, and queued, a moment before or after a judgment came in.
        return _by_key(session, project, by_id, idempotency_key) or create(
            session,
            snapshot=snapshot,
            base_model=base_model,
            config=config,
            by=session.get_one(User, by_id),
            parent=parent,
            idempotency_key=idempotency_key,
            note=note,
            now=now,
        )


def _by_key(session: Session, project: Project, by_id: int, key: str | None) -> TrainingRun | None:
    job = jobs.by_key(session, kind=JobKind.TRAINING, by=session.get_one(User, by_id), key=key)
    if job is not None and job.project_id != project.id:
        raise jobs.key_used(job)
    return get(session, job.id) if job else None


def get(session: Session, job_id: int) -> TrainingRun:
    """The run with its job, snapshot, project and starter. Raises NotFound, also for a job of another kind."""
    run = session.scalars(loaded().where(TrainingRun.job_id == job_id)).first() if 0 < job_id < 2**31 else None
    if run is None:
        raise missing(job_id)
    return run


def check(session: Session, job_id: int) -> None:
    """Raises NotFound where there is no such run."""
    if session.scalar(select(TrainingRun.job_id).where(TrainingRun.job_id == job_id)) is None:
        raise missing(job_id)


def missing(job_id: int) -> NotFound:
    """What is said of a run that isn't there, or isn't for whoever asks."""
    return NotFound(f"There is no run {job_id}.", "Look at the list of runs.")


def listing(
    session: Session,
    *,
    project: Project | None = None,
    snapshot: Snapshot | None = None,
    state: JobState | None = None,
    page: int = 1,
    size: int = 50,
) -> paging.Page[TrainingRun]:
    """Runs, newest first, each with its job, snapshot, project and starter."""
    query = loaded().join(TrainingRun.job).order_by(TrainingRun.job_id.desc())
    if project is not None:
        query = query.where(Job.project_id == project.id)
    if snapshot is not None:
        query = query.where(TrainingRun.snapshot_id == snapshot.id)
    if state is not None:
        query = query.where(Job.state == state)
    return paging.fetch(session, query, page=page, size=size)


def of_jobs(session: Session, *, job_ids: Sequence[int]) -> dict[int, TrainingRun]:
    """The runs among these jobs, by the job's id."""
    return {run.job_id: run for run in session.scalars(loaded().where(TrainingRun.job_id.in_(job_ids)))}


def train_pairs(snapshot: Snapshot) -> int:
    """Pairs in the snapshot's training file."""
    return snapshot.counts.train


def record(session: Session, *, job_id: int, printed: Sequence[Event]) -> None:
    """Keep the newest numbers of each sort that the engine printed, in the transaction that stores its events.

    The first evaluation is the one before training.
    """
    numbers = [(event.type, _numbers(event)) for event in printed if isinstance(event, StepTaken | Evaluated | Done)]
    if not numbers:
        return
    run = session.scalars(select(TrainingRun).where(TrainingRun.job_id == job_id).with_for_update()).one()
    metrics = dict(run.metrics)
    for kind, values in numbers:
        if kind is EventType.EVAL:
            metrics.setdefault("before", values)
        metrics["after" if kind is EventType.EVAL else kind.value] = values
    run.metrics = metrics
    session.flush()


def record_end(session: Session, *, job_id: int, numbers: dict[str, Any]) -> None:
    """Add what the worker measured of a finished run to what the engine said when it was done."""
    run = session.scalars(select(TrainingRun).where(TrainingRun.job_id == job_id).with_for_update()).one()
    run.metrics = run.metrics | {"done": run.metrics.get("done", {}) | numbers}
    session.flush()


def loaded() -> Select[TrainingRun]:
    """Runs with what pages show of them: job, snapshot, project and who started it."""
    job = joinedload(TrainingRun.job)
    return select(TrainingRun).options(
        job.joinedload(Job.project),
        job.joinedload(Job.created_by),
        joinedload(TrainingRun.snapshot),
        joinedload(TrainingRun.continuation),
    )


def _numbers(event: Event) -> dict[str, Any]:
    return {
        key: value
        for key, value in event.data.items()
        if isinstance(value, int | float | str) and key not in ("time", "stage")
    }


def rule_for(rule: Any, *, parent: "Parent | None", new_pairs_only: bool) -> dict[str, Any] | None:
    """The rule of a run's snapshot. Raises Invalid for new pairs without a checkpoint that they are new to."""
    if not new_pairs_only:
        return rule
    if parent is None:
        raise Invalid(
            "Only new pairs were asked for, and no checkpoint that they are new to.",
            "Name the checkpoint to start from, or train on the whole dataset.",
            field="new_pairs_only",
        )
    return dict(rule or {}) | {"new_to_checkpoint": parent.checkpoint_id}


def frozen_already(snapshot_id: int) -> Invalid:
    """What is said to whoever wants only new pairs of a snapshot."""
    return Invalid(
        f"Snapshot {snapshot_id} is frozen: it holds the pairs that it holds.",
        "Train on the project's current dataset to have only new pairs.",
        field="new_pairs_only",
    )


def require(settings: Settings, *, base_model: str, config: dict[str, Any], parent: "Parent | None" = None) -> None:
    """Raises Invalid for settings, a base model or a parent that a run can't have. It reads files: not within a write transaction."""
    from app.services.training import parents, run_settings

    if parent is None:
        run_settings.validate(config)
        require_model(settings, base_model)
        return
    parent.base(base_model)
    parent.config(config)
    parents.require(settings, parent)


def require_model(settings: Settings, name: str) -> None:
    """Raises Invalid unless this base model is here and can be read. It reads a file: not within a write transaction."""
    from app.services.training import base_models

    try:
        base_models.get(settings, _checked_name(name))
    except NotFound as problem:
        raise Invalid(problem.what, problem.next_step, field="base_model") from None


def _checked_name(name: str) -> str:
    from app.services.training import base_models

    name = name.strip()
    if not base_models.NAME.fullmatch(name):
        raise Invalid(
            f"“{name[:80]}” can't be the name of a base model.",
            "`prefloop models list` shows those that are here.",
            field="base_model",
        )
    return name


def _same(run: TrainingRun, wanted: tuple[int, str, dict[str, Any], str, int | None]) -> TrainingRun:
    if (run.snapshot_id, run.base_model, run.config, run.note, run.parent_id) != wanted:
        raise jobs.key_used(run.job)
    return run
