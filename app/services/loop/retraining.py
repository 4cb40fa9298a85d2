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
from app.models import Checkpoint, CheckpointFile, Job, JobState, Retraining, Snapshot, TrainingRun, User
from app.services.accounts import audit
from app.services.datasets import without
from app.services.training import runs
from app.storage import Storage

RECORDED = {
    "threads": "threads",
    "token_budget": "token_budget",
}  # what a checkpoint recorded, by the setting that repeats it


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: its snapshot's number and hash, and the hashes of its weights by file, none before it is done."""

    job_id: int
    checkpoint_id: int | None
    snapshot_id: int
    snapshot_number: int
    snapshot_sha256: str
    weights: dict[str, str]


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
    """Freezes the run's snapshot without what is excluded now and queues the run on it. Opens its own sessions.

    Raises Conflict where nothing of it is excluded, the run hasn't ended well, or it is such a run already that waits.
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
        config = _config(run, checkpoint)
    runs.require_model(settings_of(engine), run.base_model)
    made, told = without.freeze(engine, snapshot=snapshot, by_id=by_id, storage=storage, address=address)
    with write_session(engine) as session:
        session.info["address"] = address
        by = session.get_one(User, by_id)
        if (known := _known(session, job_id, made.id)) is not None:
            return runs.get(session, known)
        again = runs.create(
            session,
            snapshot=session.get_one(Snapshot, made.id),
            base_model=run.base_model,
            config=config,
            by=by,
            note=f"Run {job_id} without {told.left_out + told.anew:,} pairs"[:255],
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


def _known(session: Session, job_id: int, snapshot_id: int) -> int | None:
    """The run that a first click made of the same, unless it failed."""
    ended_badly = (JobState.FAILED, JobState.CANCELLED)
    row, run, job = aliased(Retraining), aliased(TrainingRun), aliased(Job)
    return session.scalar(
        select(row.job_id)
        .join(run, run.job_id == row.job_id)
        .join(job, job.id == row.job_id)
        .where(row.of_job_id == job_id, run.snapshot_id == snapshot_id, job.state.not_in(ended_badly))
        .limit(1)
    )


def _config(run: TrainingRun, checkpoint: Checkpoint | None) -> dict[str, Any]:
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
    return Side(job_id, checkpoint_id, snapshot.id, snapshot.number, snapshot.sha256, weights)
