"""What a checkpoint was trained on, with all that it started from: its run's snapshot, and those of the runs before it."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import literal, select
from sqlalchemy.orm import Session

from app.bulk import among
from app.errors import Conflict, NotFound
from app.models import Checkpoint, Comparison, Continuation, Prompt, Snapshot, Split, TrainingRun
from app.services.datasets import members
from app.services.datasets.members import Blocks


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A checkpoint with its run and the snapshot that this was trained on."""

    checkpoint_id: int
    job_id: int
    snapshot_id: int


def of_runs(session: Session, job_ids: Collection[int]) -> dict[int, list[Ancestor]]:
    """The checkpoints that runs go back to, the newest first, by one query. Runs that start from a base model are left out."""
    first = (
        select(Continuation.job_id.label("of"), Continuation.checkpoint_id, literal(0).label("back"))
        .where(Continuation.job_id.in_(job_ids))
        .cte("chain", recursive=True)
    )
    before = (
        select(first.c.of, Continuation.checkpoint_id, first.c.back + 1)
        .join(Checkpoint, Checkpoint.job_id == Continuation.job_id)
        .join(first, first.c.checkpoint_id == Checkpoint.id)
    )
    chain = first.union_all(before)
    query = (
        select(chain.c.of, Checkpoint.id, Checkpoint.job_id, TrainingRun.snapshot_id)
        .join(Checkpoint, Checkpoint.id == chain.c.checkpoint_id)
        .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
        .order_by(chain.c.of, chain.c.back)
    )
    told: dict[int, list[Ancestor]] = {}
    for of, *one in session.execute(query).tuples():
        told.setdefault(of, []).append(Ancestor(*one))
    return told


def of_run(session: Session, job_id: int) -> list[Ancestor]:
    """The checkpoints that a run goes back to, the newest first; empty where it starts from its base model."""
    return of_runs(session, [job_id]).get(job_id, [])


def of_checkpoint(session: Session, checkpoint_id: int) -> list[Ancestor]:
    """The checkpoint and those that it comes from, the newest first. Empty where there is no such checkpoint."""
    row = session.execute(
        select(Checkpoint.id, Checkpoint.job_id, TrainingRun.snapshot_id)
        .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
        .where(Checkpoint.id == checkpoint_id)
    ).first()
    return [Ancestor(*row), *of_run(session, row.job_id)] if row else []


def trained_on(session: Session, checkpoint_id: int) -> Blocks:
    """The comparisons in the snapshots of a checkpoint and of those that it comes from, pairs of the eval split among them.

    Raises NotFound, and Conflict while a snapshot of an earlier version is still to be looked through.
    """
    chain = of_checkpoint(session, checkpoint_id)
    if not chain:
        raise NotFound(
            f"There is no checkpoint {checkpoint_id}.", "Look at the list of checkpoints.", field="from_checkpoint"
        )
    ids = {one.snapshot_id for one in chain}
    _require_read(session, ids)
    union: dict[int, bytearray] = {}
    for blocks in members.load(session, snapshot_ids=ids).values():
        for block, held in blocks.items():
            union[block] = bytearray(a | b for a, b in zip(union.get(block, bytes(len(held))), held, strict=True))
    return union


def saw_training_pairs(session: Session, *, checkpoint_id: int, snapshot_id: int) -> bool:
    """Whether a checkpoint, or one that it comes from, was trained on any of a snapshot's training pairs. Raises what `trained_on`
    raises, for the snapshot too."""
    known = trained_on(session, checkpoint_id)
    _require_read(session, {snapshot_id})
    held = members.load(session, snapshot_ids=[snapshot_id], among=known).get(snapshot_id, {})
    for block, of_snapshot in held.items():
        both = members.ids_in(block, bytes(a & b for a, b in zip(known[block], of_snapshot, strict=True)))
        if not both:
            continue
        # Eval pairs may be in both: nobody is trained on them.
        trained = (
            select(Comparison.id)
            .join(Prompt, Prompt.id == Comparison.prompt_id)
            .where(among(session, Comparison.id, both), Prompt.split == Split.TRAIN)
            .limit(1)
        )
        if session.scalar(trained) is not None:
            return True
    return False


def _require_read(session: Session, snapshot_ids: Collection[int]) -> None:
    unread = select(Snapshot.number).where(Snapshot.id.in_(snapshot_ids), ~Snapshot.indexed).limit(1)
    if (number := session.scalar(unread)) is not None:
        raise Conflict(
            f"Snapshot {number}, which was frozen by an earlier version, is still to be looked through.",
            "That happens by itself while the server runs. Try again in some minutes.",
        )
