"""What became of an evaluation's prompts since: the checkpoints that were trained on one of their near-duplicate groups. Of such a
checkpoint the evaluation says nothing any more, whoever judged what."""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.models import Checkpoint, Comparison, Evaluation, EvaluationPair, Prompt, Snapshot, Split, TrainingRun
from app.models.lineage import BLOCK
from app.services.datasets import ancestors, members
from app.services.loop import lineage


@dataclass(frozen=True, slots=True)
class Learnt:
    """A checkpoint that was trained on near duplicates of so many of an evaluation's prompts. `is_side`: one that it compared."""

    checkpoint_id: int
    prompts: int
    is_side: bool

    @property
    def sentence(self) -> str:
        asked = "one of its prompts" if self.prompts == 1 else f"{self.prompts:,} of its prompts"
        if self.is_side:
            return (
                f"Void: checkpoint {self.checkpoint_id}, one of its sides, was trained on near duplicates of {asked}."
            )
        return f"Void for checkpoint {self.checkpoint_id}, which was trained since on near duplicates of {asked}."


def learnt(session: Session, evaluation: Evaluation) -> list[Learnt]:
    """The sides, and later checkpoints of the project, that a prompt's group trained. Nothing is read beyond the evaluation's own
    prompts where no group of theirs has a prompt to train on, which is nearly always."""
    of_comparison = _to_train(session, evaluation)
    if not of_comparison:
        return []
    of_snapshot = _held(session, evaluation.project_id, of_comparison)
    trained = select(TrainingRun.job_id).where(TrainingRun.snapshot_id.in_(of_snapshot))
    runs = lineage.from_runs(session, list(session.scalars(trained)))
    chains = ancestors.of_runs(session, runs)
    sides = {evaluation.checkpoint_id, evaluation.opponent_id}
    rows = session.execute(
        select(Checkpoint.id, Checkpoint.job_id, TrainingRun.snapshot_id)
        .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
        .where(Checkpoint.job_id.in_(runs))
        .order_by(Checkpoint.id)
    ).tuples()
    told = []
    for checkpoint_id, job_id, snapshot_id in rows:
        used = [snapshot_id, *(one.snapshot_id for one in chains.get(job_id, []))]
        prompts = {prompt for number in used for prompt in of_snapshot.get(number, ())}
        if prompts and (checkpoint_id in sides or checkpoint_id > evaluation.checkpoint_id):
            told.append(Learnt(checkpoint_id, len(prompts), checkpoint_id in sides))
    return told


def _to_train(session: Session, evaluation: Evaluation) -> dict[int, set[int]]:
    """Comparisons of near duplicates that are trained on, each with the evaluation's prompts that they are near."""
    asked, other = aliased(Prompt), aliased(Prompt)
    query = (
        select(Comparison.id, asked.id)
        .join(other, other.id == Comparison.prompt_id)
        .join(asked, asked.group_id == other.group_id)
        .join(EvaluationPair, EvaluationPair.prompt_id == asked.id)
        .where(
            EvaluationPair.evaluation_id == evaluation.id,
            EvaluationPair.left_out == "",
            other.split == Split.TRAIN,
            Comparison.evaluation_id.is_(None),
        )
    )
    near: dict[int, set[int]] = defaultdict(set)
    for comparison_id, prompt_id in session.execute(query).tuples():
        near[comparison_id].add(prompt_id)
    return dict(near)


def _held(session: Session, project_id: int, of_comparison: dict[int, set[int]]) -> dict[int, set[int]]:
    """The project's snapshots that hold one of the comparisons, with the evaluation's prompts that these are near."""
    ids = list(session.scalars(select(Snapshot.id).where(Snapshot.project_id == project_id)))
    blocks = {number // BLOCK for number in of_comparison}
    held: dict[int, set[int]] = {}
    for snapshot_id, bitmaps in members.load(session, snapshot_ids=ids, among=blocks).items():
        near = {prompt for number, of in of_comparison.items() if members.has(bitmaps, number) for prompt in of}
        if near:
            held[snapshot_id] = near
    return held
