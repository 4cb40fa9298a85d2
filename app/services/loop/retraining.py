"""Retrain without: a run again, on its snapshot without what was excluded since, and the receipt of both.

The new run draws each epoch's order from what pairs are (`pair_order`), and computes with the threads, number type and token
budget that the first one recorded: on a CPU it ends with the weights of a run that never saw what was left out.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, aliased

from app.db import read_session, settings_of, write_session
from app.errors import Conflict
from app.models import (
    Checkpoint,
    CheckpointFile,
    Continuation,
    Exclusion,
    Job,
    JobState,
    Retraining,
    Snapshot,
    TrainingRun,
    User,
)
from app.services.accounts import audit
from app.services.datasets import ancestors, marks, without
from app.services.loop import lineage
from app.services.training import parents, runs
from app.services.training.parents import Parent
from app.storage import Storage

RECORDED = {
    "threads": "threads",
    "token_budget": "token_budget",
}  # what a checkpoint recorded, by the setting that repeats it


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: its snapshot's number and hash, and the hashes of its weights by file, none before it is done.
    `from_checkpoint`: what it started from, None for the base model."""

    job_id: int
    checkpoint_id: int | None
    snapshot_id: int
    snapshot_number: int
    snapshot_sha256: str
    weights: dict[str, str]
    from_checkpoint: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a run was made again without some pairs: what was and what is."""

    before: Side
    after: Side
    pairs_left_out: int
    pairs_decided_anew: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def with_weights(self, folder: Path) -> "Receipt":
        """The same once the new run has left its weights in a folder, before they are stored."""
        weights = {path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        return replace(self, after=replace(self.after, weights=weights))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def retrain(engine: Engine, *, job_id: int, by_id: int, storage: Storage, address: str = "") -> TrainingRun:
    """Freezes the run's snapshot without what is excluded now and queues the run on it. Opens its own sessions. A run that started
    from a checkpoint which saw something of that starts from the one that was made again without it.

    Raises Conflict where nothing of it is excluded, the run hasn't ended well, or the run that it started from is to be made
    again first.
    """
    with read_session(engine) as session:
        run = runs.get(session, job_id)
        if run.job.state is not JobState.SUCCEEDED:
            raise Conflict(
                f"Run {job_id} is {run.job.state.value}.", "Only a run that succeeded is made again without something."
            )
        snapshot = session.get_one(Snapshot, run.snapshot_id)
        snapshot.project = run.job.project
        checkpoint = session.scalar(
            select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id).limit(1)
        )
        config = settings_again(run, checkpoint)
        parent = _parent(session, run)
    runs.require(settings_of(engine), base_model=run.base_model, config=config, parent=parent)
    if parent is not None and parent.checkpoint_id != run.parent_id and not _is_marked(engine, snapshot.id):
        made, told = snapshot, without.Without()  # only what it started from saw something
    else:
        made, told = without.freeze(engine, snapshot=snapshot, by_id=by_id, storage=storage, address=address)
    with write_session(engine) as session:
        session.info["address"] = address
        by = session.get_one(User, by_id)
        if (known := _known(session, job_id, made.id, parent.checkpoint_id if parent else None)) is not None:
            return runs.get(session, known)
        again = runs.create(
            session,
            snapshot=session.get_one(Snapshot, made.id),
            base_model=run.base_model,
            config=config,
            by=by,
            parent=parent,
            note=_note(job_id, told, parent if parent and parent.checkpoint_id != run.parent_id else None),
        )
        session.add(
            Retraining(
                job_id=again.job_id, of_job_id=job_id, pairs_left_out=told.left_out, pairs_decided_anew=told.anew
            )
        )
        session.flush()
        audit.record(
            session,
            by=by,
            action="run.retrain_without",
            target=f"job {again.job_id}",
            of=job_id,
            snapshot=made.id,
            left_out=told.left_out,
        )
        return again


def _parent(session: Session, run: TrainingRun) -> Parent | None:
    """What the run starts from when it is made again: its parent, or the newest checkpoint that is its parent again without what is
    excluded. Raises Conflict where that is still to be made."""
    if run.parent_id is None:
        return None
    if session.scalar(select(Exclusion.id).where(~Exclusion.settled).limit(1)) is not None:
        raise Conflict(
            "Something that was just left out, or put back, is still being marked in what was made of it.",
            "Try again in some seconds.",
        )
    before = ancestors.of_run(session, run.job_id)[0]
    if not lineage.excluded_of(session, {before.job_id: before.snapshot_id})[before.job_id]:
        return parents.find(session, run.parent_id)
    made = (
        select(Checkpoint.id, Checkpoint.job_id, TrainingRun.snapshot_id)
        .join(Retraining, Retraining.job_id == Checkpoint.job_id)
        .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
        .where(Retraining.of_job_id == before.job_id)
        .order_by(Checkpoint.id.desc())
    )
    for checkpoint_id, job_id, snapshot_id in session.execute(made).tuples():
        if not lineage.excluded_of(session, {job_id: snapshot_id})[job_id]:
            return parents.find(session, checkpoint_id)
    raise Conflict(
        f"Run {run.job_id} started from checkpoint {run.parent_id}, and its run {before.job_id} saw pairs that are excluded.",
        f"Retrain run {before.job_id} without them first; run {run.job_id} can then start from what comes of it.",
        job_id=before.job_id,
    )


def _is_marked(engine: Engine, snapshot_id: int) -> bool:
    with read_session(engine) as session:
        return bool(marks.pairs_excluded(session, snapshot_ids=[snapshot_id]))


def _note(job_id: int, told: without.Without, other: Parent | None) -> str:
    pairs = told.left_out + told.anew
    parts = [f"without {pairs:,} pairs"] if pairs or other is None else []
    parts += [f"from checkpoint {other.checkpoint_id}"] if other else []
    return f"Run {job_id} {', '.join(parts)}"[:255]


def receipt(session: Session, *, job_id: int) -> Receipt | None:
    """The receipt of a run that is another one again; None for any other run."""
    row = session.get(Retraining, job_id)
    if row is None:
        return None
    return Receipt(
        _side(session, row.of_job_id), _side(session, row.job_id), row.pairs_left_out, row.pairs_decided_anew
    )


def again(session: Session, *, job_id: int) -> list[int]:
    """The runs that are this one again, without something."""
    made = select(Retraining.job_id).where(Retraining.of_job_id == job_id).order_by(Retraining.job_id)
    return list(session.scalars(made))


def _known(session: Session, job_id: int, snapshot_id: int, parent_id: int | None) -> int | None:
    """The run that a first click made of the same, unless it failed."""
    ended_badly = (JobState.FAILED, JobState.CANCELLED)
    row, run, job, start = aliased(Retraining), aliased(TrainingRun), aliased(Job), aliased(Continuation)
    return session.scalar(
        select(row.job_id)
        .join(run, run.job_id == row.job_id)
        .join(job, job.id == row.job_id)
        .outerjoin(start, start.job_id == row.job_id)
        .where(row.of_job_id == job_id, run.snapshot_id == snapshot_id, job.state.not_in(ended_badly))
        .where(start.checkpoint_id.is_(None) if parent_id is None else start.checkpoint_id == parent_id)
        .limit(1)
    )


def settings_again(run: TrainingRun, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """The run's own settings, with what it recorded in the place of what it chose by itself."""
    config: dict[str, Any] = run.config | {"pair_order": "content"}
    recorded: Mapping[str, Any] = checkpoint.provenance if checkpoint else {}
    for key, setting in RECORDED.items():
        if recorded.get(key):
            config[setting] = recorded[key]
    dtype = (recorded.get("number_type") or {}).get("dtype")
    return config | {"dtype": dtype} if dtype else config


def _side(session: Session, job_id: int) -> Side:
    snapshot = session.scalars(
        select(Snapshot).join(TrainingRun, TrainingRun.snapshot_id == Snapshot.id).where(TrainingRun.job_id == job_id)
    ).one()
    checkpoint_id = session.scalar(
        select(Checkpoint.id).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id).limit(1)
    )
    files = select(CheckpointFile.name, CheckpointFile.sha256).where(
        CheckpointFile.checkpoint_id == checkpoint_id, CheckpointFile.name.endswith(".safetensors")
    )
    weights = dict(session.execute(files.order_by(CheckpointFile.name)).tuples().all())
    started = session.scalar(select(Continuation.checkpoint_id).where(Continuation.job_id == job_id))
    return Side(job_id, checkpoint_id, snapshot.id, snapshot.number, snapshot.sha256, weights, started)
