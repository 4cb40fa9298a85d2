"""Where things went and where they come from: pair → snapshots → runs → checkpoints → exports and verdicts, and back.

A question costs rows of what it is about, whatever the size of the project: a pair's snapshots are found by one bitmap each.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.models import (
    Checkpoint,
    Comparison,
    Continuation,
    Evaluation,
    Export,
    Extract,
    Job,
    Snapshot,
    TrainingRun,
)
from app.services.datasets import ancestors, marks, members

MOST = 200  # of each kind


class Kind(StrEnum):
    PAIR = "pair"
    SNAPSHOT = "snapshot"
    RUN = "run"
    CHECKPOINT = "checkpoint"
    EXTRACT = "extract"
    EXPORT = "export"
    VERDICT = "verdict"


COLUMNS = ((Kind.PAIR,), (Kind.SNAPSHOT,), (Kind.RUN, Kind.EXTRACT), (Kind.CHECKPOINT,), (Kind.EXPORT, Kind.VERDICT))


@dataclass(frozen=True, slots=True)
class Node:
    """One thing. `excluded`: pairs in what it was made from that were excluded later. `sources`: what it was made from.
    `number`: an evaluation's in its project."""

    kind: Kind
    id: int
    title: str
    state: str = ""
    excluded: int = 0
    sources: tuple[tuple[Kind, int], ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """What is above and below one thing (`about`). `unread`: snapshots of an earlier version that are still to be looked through."""

    about: tuple[Kind, int]
    nodes: list[Node] = field(default_factory=list)
    unread: int = 0

    @property
    def columns(self) -> list[list[Node]]:
        """The nodes from left to right, empty columns left out."""
        columns = ([node for node in self.nodes if node.kind in kinds] for kinds in COLUMNS)
        return [column for column in columns if column]

    @property
    def excluded(self) -> int:
        """Pairs that were excluded later, of what the thing itself was made from."""
        return next((node.excluded for node in self.nodes if (node.kind, node.id) == self.about), 0)


def of_pair(session: Session, *, comparison: Comparison) -> Lineage:
    """Everything that used a comparison, and so its judgments."""
    ids = members.holding(session, project_id=comparison.project_id, comparison_id=comparison.id)
    unread = select(Snapshot.id).where(Snapshot.project_id == comparison.project_id, ~Snapshot.indexed)
    pair = Node(Kind.PAIR, comparison.id, f"Comparison {comparison.id}")
    below = _below(session, ids)
    snapshots = (
        Node(one.kind, one.id, one.title, one.state, one.excluded, ((Kind.PAIR, comparison.id),))
        if one.kind is Kind.SNAPSHOT
        else one
        for one in below
    )
    return Lineage((Kind.PAIR, comparison.id), [pair, *snapshots], len(session.scalars(unread).all()))


def of_snapshot(session: Session, *, snapshot_id: int) -> Lineage:
    """What was made from a snapshot."""
    return Lineage((Kind.SNAPSHOT, snapshot_id), _below(session, [snapshot_id]))


def of_run(session: Session, *, job_id: int) -> Lineage:
    """What a run was trained on, back to the base model, and what came of it."""
    return Lineage((Kind.RUN, job_id), _around(session, job_id))


def of_checkpoint(session: Session, *, checkpoint_id: int) -> Lineage:
    """Where a checkpoint comes from, and what was made of it."""
    job_id = session.scalars(select(Checkpoint.job_id).where(Checkpoint.id == checkpoint_id)).one()
    return Lineage((Kind.CHECKPOINT, checkpoint_id), _around(session, job_id))


def _around(session: Session, job_id: int) -> list[Node]:
    before = [one.job_id for one in ancestors.of_run(session, job_id)]
    used = select(TrainingRun.snapshot_id).where(TrainingRun.job_id.in_([job_id, *before]))
    snapshots = _snapshots(session, list(session.scalars(used.distinct())))
    return [*snapshots, *_made(session, [*before, *from_runs(session, [job_id])], snapshots)]


def _below(session: Session, snapshot_ids: Collection[int]) -> list[Node]:
    """Snapshots with all that was made from them."""
    snapshots = _snapshots(session, snapshot_ids)
    trained = select(TrainingRun.job_id).where(TrainingRun.snapshot_id.in_(snapshot_ids)).limit(MOST)
    taken = select(Extract.id, Extract.snapshot_id).where(Extract.snapshot_id.in_(snapshot_ids)).limit(MOST)
    excluded = {node.id: node.excluded for node in snapshots}
    made = _made(session, from_runs(session, list(session.scalars(trained))), snapshots)
    runs = [node for node in made if node.kind is Kind.RUN]
    extracts = [
        Node(Kind.EXTRACT, number, f"Extract {number}", "", excluded.get(of or 0, 0), ((Kind.SNAPSHOT, of or 0),))
        for number, of in session.execute(taken).tuples()
    ]
    return [*snapshots, *runs, *extracts, *made[len(runs) :]]


def _snapshots(session: Session, snapshot_ids: Collection[int]) -> list[Node]:
    excluded = marks.pairs_excluded(session, snapshot_ids=list(snapshot_ids))
    rows = session.scalars(select(Snapshot).where(Snapshot.id.in_(snapshot_ids)).order_by(Snapshot.id).limit(MOST))
    return [Node(Kind.SNAPSHOT, one.id, f"Snapshot {one.number}", excluded=excluded.get(one.id, 0)) for one in rows]


def from_runs(session: Session, job_ids: Collection[int]) -> list[int]:
    """These runs, and all of their projects that started from a checkpoint of theirs, or of one of those."""
    theirs = select(Job.project_id).where(Job.id.in_(job_ids))
    first = select(TrainingRun.job_id).where(TrainingRun.job_id.in_(job_ids)).cte("started", recursive=True)
    later = (
        select(Continuation.job_id)
        .join(Checkpoint, Checkpoint.id == Continuation.checkpoint_id)
        .join(first, first.c.job_id == Checkpoint.job_id)
        .join(Job, Job.id == Continuation.job_id)
        .where(Job.project_id.in_(theirs))
    )
    return list(session.scalars(select(first.union(later).c.job_id).limit(MOST)))


def _made(session: Session, job_ids: Collection[int], snapshots: list[Node]) -> list[Node]:
    """Runs, their checkpoints, and what was made of these. A run's snapshot is a source of it where it is shown."""
    shown = {node.id for node in snapshots}
    rows = session.execute(
        select(TrainingRun.job_id, TrainingRun.snapshot_id, Job.state, Continuation.checkpoint_id)
        .join(Job, Job.id == TrainingRun.job_id)
        .outerjoin(Continuation, Continuation.job_id == TrainingRun.job_id)
        .where(TrainingRun.job_id.in_(job_ids))
        .order_by(TrainingRun.job_id)
    )
    trained = rows.tuples().all()
    of_run = excluded_of(session, {job_id: snapshot_id for job_id, snapshot_id, *_ in trained})
    runs = [
        Node(
            Kind.RUN,
            job_id,
            f"Run {job_id}",
            state.value,
            of_run[job_id],
            (
                *([(Kind.SNAPSHOT, snapshot_id)] if snapshot_id in shown else []),
                *([(Kind.CHECKPOINT, parent_id)] if parent_id else []),
            ),
        )
        for job_id, snapshot_id, state, parent_id in trained
    ]
    return [*runs, *_of_runs(session, of_run)]


def excluded_of(session: Session, runs: Mapping[int, int]) -> dict[int, int]:
    """How many pairs that each run (job, snapshot) saw were excluded later, those that it saw through its parents among them.

    A pair counts once: a snapshot of new pairs only has none of its ancestors', any other may have all of them.
    """
    chains = ancestors.of_runs(session, runs)
    used = set(runs.values()) | {one.snapshot_id for chain in chains.values() for one in chain}
    marked = marks.by_exclusion(session, snapshot_ids=used)
    rules = select(Snapshot.id, Snapshot.rule).where(Snapshot.id.in_(used))
    is_new_only = {number: bool(rule.get("new_to_checkpoint")) for number, rule in session.execute(rules).tuples()}
    told = {}
    for job_id, snapshot_id in runs.items():
        seen: dict[int, int] = {}
        for number in [*(one.snapshot_id for one in reversed(chains.get(job_id, []))), snapshot_id]:
            for exclusion_id, pairs in marked.get(number, {}).items():
                before = seen.get(exclusion_id, 0)
                seen[exclusion_id] = before + pairs if is_new_only[number] else max(before, pairs)
        told[job_id] = sum(seen.values())
    return told


def _of_runs(session: Session, of_run: dict[int, int]) -> Iterable[Node]:
    kept = select(Checkpoint.id, Checkpoint.job_id).where(Checkpoint.job_id.in_(of_run)).order_by(Checkpoint.id)
    checkpoints = session.execute(kept.limit(MOST)).tuples().all()
    of_checkpoint = {number: of_run[job_id] for number, job_id in checkpoints}
    for number, job_id in checkpoints:
        yield Node(Kind.CHECKPOINT, number, f"Checkpoint {number}", "", of_run[job_id], ((Kind.RUN, job_id),))
    exports = select(Export.job_id, Export.checkpoint_id, Export.format).where(Export.checkpoint_id.in_(of_checkpoint))
    for job_id, number, form in session.execute(exports.limit(MOST)).tuples():
        yield Node(Kind.EXPORT, job_id, f"{form.value}", "", of_checkpoint[number], ((Kind.CHECKPOINT, number),))
    judged: Any = select(Evaluation).where(
        or_(Evaluation.checkpoint_id.in_(of_checkpoint), Evaluation.opponent_id.in_(of_checkpoint))
    )
    for one in session.scalars(judged.order_by(Evaluation.id).limit(MOST)):
        sides = [number for number in (one.checkpoint_id, one.opponent_id) if number in of_checkpoint]
        yield Node(
            Kind.VERDICT,
            one.id,
            f"Evaluation {one.number}",
            one.outcome,
            max(of_checkpoint[number] for number in sides),
            tuple((Kind.CHECKPOINT, number) for number in sides),
            one.number,
        )
