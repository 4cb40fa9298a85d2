"""What a run will cost, judged by finished runs of the same model: measured, or not said at all."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy.orm import Session

from app.models import Job, JobState, TrainingRun
from app.services.training import runs

RUNS_LOOKED_AT = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds and bytes of memory, each None where no finished run tells. `runs` says on how many runs it rests."""

    pairs: int
    seconds: float | None
    memory_bytes: int | None
    worker: str
    runs: int


def estimate(session: Session, *, base_model: str, config: dict[str, Any], pairs: int) -> Estimate:
    """For a run over `pairs` training pairs with a checked `config`, from the last finished runs like it.

    Like it: the same base model, adapter or full, number types. Time goes with pairs times epochs.
    """
    work = pairs_seen(config, pairs)
    finished = (
        runs.loaded()
        .join(TrainingRun.job)
        .where(Job.state == JobState.SUCCEEDED, TrainingRun.base_model == base_model)
        .order_by(TrainingRun.job_id.desc())
        .limit(4 * RUNS_LOOKED_AT)
    )
    like = [run for run in session.scalars(finished) if _sort(run.config) == _sort(config)][:RUNS_LOOKED_AT]
    rates = [
        seconds / done
        for run in like
        if (seconds := _seconds(run.job)) and (done := pairs_seen(run.config, runs.train_pairs(run.snapshot)))
    ]
    peaks = [int(peak) for run in like if (peak := run.metrics.get("done", {}).get("peak_memory_bytes"))]
    return Estimate(
        pairs=work,
        seconds=median(rates) * work if rates else None,
        memory_bytes=max(peaks) if peaks else None,
        worker=like[0].job.worker if like else "",
        runs=len(like),
    )


def pairs_seen(config: dict[str, Any], pairs: int) -> int:
    """Pairs that a run learns from, counted over the epochs."""
    steps = int(config.get("max_steps", -1))
    if steps > 0:
        return steps * int(config.get("batch_size", 16))
    return round(pairs * float(config.get("num_train_epochs", 1.0)))


def _seconds(job: Job) -> float | None:
    """Wall time of a run that went through in one attempt: one that was resumed waited as well."""
    if job.attempts != 1 or job.started_at is None or job.finished_at is None:
        return None
    return (job.finished_at - job.started_at).total_seconds()


def _sort(config: dict[str, Any]) -> tuple[Any, ...]:
    lora = int(config.get("lora_r", 16)) > 0
    return (
        lora,
        config.get("dtype", "float32"),
        config.get("mixed_precision", "no"),
        config.get("load_in_4bit", False),
    )
