"""What a trial came to: each run's margins of the same eval pairs, compared by prompt and seed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Arm, ArmTrialRun, Checkpoint, CheckpointFile, Snapshot, TrainingRun
from app.services.datasets import snapshots
from app.services.loop.trials.plan import Plan, points
from app.stats.loop.arms import worth
from app.stats.loop.estimate import Estimate
from app.storage import Storage

MARGINS = "eval_margins.json"
PER = 100  # judgments of which is told what they bought
Margins = Mapping[int, float]  # by line of the eval file
Key = tuple[int, Arm]  # a seed, and of which arm pairs were left out


def files_of(session: Session, *, trial_id: int) -> dict[Key, tuple[ArmTrialRun, str]]:
    """Each run of a trial with the stored file of its margins, where it has one."""
    rows = session.execute(
        select(ArmTrialRun, CheckpointFile.key)
        .join(Checkpoint, Checkpoint.job_id == ArmTrialRun.job_id)
        .join(CheckpointFile, (CheckpointFile.checkpoint_id == Checkpoint.id) & (CheckpointFile.name == MARGINS))
        .where(ArmTrialRun.trial_id == trial_id)
        .order_by(Checkpoint.id)
    ).tuples()
    return {(run.seed, run.left_out): (run, key) for run, key in rows}


def prompts_of(session: Session, storage: Storage, *, job_id: int) -> list[int]:
    """The prompt of each line of the eval file, which all runs of a trial share."""
    of_run = (
        select(Snapshot).join(TrainingRun, TrainingRun.snapshot_id == Snapshot.id).where(TrainingRun.job_id == job_id)
    )
    snapshot = session.scalars(of_run).one()
    text = storage.read_bytes(snapshots.file(snapshot, "eval.jsonl").key)
    return [int(json.loads(line)["prompt_id"]) for line in text.splitlines()]


def read(storage: Storage, key: str) -> Margins:
    told = json.loads(storage.read_bytes(key))
    return dict(zip(told["lines"], told["margins"], strict=True))


def result(
    plan: Plan, prompts: Sequence[int], margins: Mapping[Key, Margins], judgments: Mapping[Key, int], *, pairs: int
) -> dict[str, Any]:
    """What each arm's judgments bought: 100 of them, or as many (`per`) as there are. Pure.

    prompts: of each line of the eval file. margins: of each run. judgments: those of the pairs that a run left out. The
    accuracy decides; the margin stands beside it. Raises Conflict where too few prompts were scored by every run.
    """
    lines = sorted(set.intersection(*(set(one) for one in margins.values())))
    by_prompt: dict[int, list[int]] = {}
    for line in lines:
        by_prompt.setdefault(prompts[line - 1], []).append(line)
    if len(by_prompt) < 2:
        raise Conflict(
            f"The runs scored {len(by_prompt)} prompts of the eval split in common.",
            "Collect eval pairs of the random arm, train again, and start another trial.",
        )
    seeds = sorted({seed for seed, _ in margins})
    told = {}
    for arm in plan.arms:
        accuracy, nats = [], []
        for seed in seeds:
            with_arm, without = margins[seed, Arm.RANDOM], margins[seed, arm]
            two = [([with_arm[line] for line in of], [without[line] for line in of]) for of in by_prompt.values()]
            accuracy.append([points(one) - points(other) for one, other in two])
            nats.append([sum(one) / len(one) - sum(other) / len(other) for one, other in two])
        count = max(1, round(sum(judgments[seed, arm] for seed in seeds) / len(seeds)))
        # Of fewer than a hundred nothing is said of a hundred: nobody knows what the others would have bought.
        decides = worth(accuracy, judgments=max(count, PER), arms=len(plan.arms))
        beside = worth(nats, judgments=max(count, PER), arms=len(plan.arms))
        told[arm.value] = {
            "judgments": count,
            "per": min(count, PER),
            "accuracy": _stored(decides.per_hundred),
            "margin": _stored(beside.per_hundred),
            "differs": decides.differs,
        }
    return {"arms": told, "prompts": len(by_prompt), "eval_pairs": len(lines), "seeds": len(seeds), "pairs": pairs}


def _stored(estimate: Estimate) -> dict[str, float]:
    return {"value": round(estimate.value or 0.0, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}
