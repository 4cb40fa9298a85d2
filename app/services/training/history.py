"""What a run has told so far, read back from its events for its page: chart points, samples, the end of its log."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Job, JobEvent, TrainingRun
from app.services.training.run_config.losses import LOSSES

CHARTED = (
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "log_ratios/chosen",
    "log_ratios/rejected",
    "grad_norm",
    "learning_rate",
)
LOG_LINES = 200
SAMPLES = 64
MOST_POINTS = 4000  # beyond this a chart has several points a pixel; they are thinned evenly


@dataclass(slots=True)
class Sample:
    """One prompt with what the model answered, by phase: {"before": text, "after": text}. `decoding`: greedy or sampled."""

    prompt: list[dict[str, Any]]
    decoding: str = ""
    answers: dict[str, str] = field(default_factory=dict)


def beta(run: TrainingRun) -> float:
    """The β of the run's loss: rewards divided by it are log-ratios, in nats."""
    given = run.config.get("beta")
    loss = run.config.get("loss_type", "sigmoid")
    return float(given or (LOSSES[loss].defaults["beta"] if isinstance(loss, str) and loss in LOSSES else 0.1))


def point(event: JobEvent, *, beta: float) -> dict[str, Any] | None:
    """A step or eval event as a chart point {id, kind, step, metric: value …}; None for any other event.

    Eval metrics lose their `eval_`, so that a chart names one metric for both kinds.
    """
    if event.type not in ("step", "eval") or event.step is None:
        return None
    prefix = "eval_" if event.type == "eval" else ""
    values = {key: event.data.get(prefix + key) for key in CHARTED}
    for side in ("chosen", "rejected"):
        reward = event.data.get(f"{prefix}rewards/{side}")
        values[f"log_ratios/{side}"] = reward / beta if isinstance(reward, int | float) else None
    if not values["rewards/margins"]:
        values["rewards/accuracies"] = (
            None  # policy and reference are equal: no answer is preferred to be right or wrong about
        )
    rounded = {key: float(f"{value:.6g}") for key, value in values.items() if isinstance(value, int | float)}
    return {"id": event.id, "kind": event.type, "step": event.step, **rounded}


def points(run: TrainingRun, events: Iterable[JobEvent]) -> list[dict[str, Any]]:
    """The chart points among these events, in their order."""
    factor = beta(run)
    return [found for event in events if (found := point(event, beta=factor))]


def chart_points(session: Session, *, run: TrainingRun) -> list[dict[str, Any]]:
    """Every point of the run so far. A step that a resumed run took again counts once, as it went the last time."""
    rows = session.scalars(
        select(JobEvent).where(JobEvent.job_id == run.job_id, JobEvent.type.in_(("step", "eval"))).order_by(JobEvent.id)
    )
    newest = {(found["kind"], found["step"]): found for found in points(run, rows)}
    found = sorted(newest.values(), key=lambda one: (one["step"], one["kind"]))
    stride = -(-len(found) // MOST_POINTS)
    if stride <= 1:
        return found
    return [
        one
        for index, one in enumerate(found)
        if one["kind"] == "eval" or index % stride == 0 or index == len(found) - 1
    ]


def last_id(session: Session, *, job: Job) -> int:
    """The id of the newest event: where the stream of a page that shows everything so far goes on. 0: none yet."""
    return session.scalar(select(func.max(JobEvent.id)).where(JobEvent.job_id == job.id)) or 0


def log_tail(session: Session, *, job: Job, lines: int = LOG_LINES) -> list[JobEvent]:
    """The newest log, state and error events, oldest first."""
    newest = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type.in_(("log", "state", "error", "checkpoint")))
        .order_by(JobEvent.id.desc())
        .limit(lines)
    )
    return list(session.scalars(newest))[::-1]


def slow_because(session: Session, *, job: Job) -> str:
    """Why the run is slower than it could be, as the engine warned when it last began; empty where it didn't."""
    # When it begins, the engine says once how it computes (`fused_layers`), and just before that what it must do without.
    newest = (
        select(JobEvent)
        .where(
            JobEvent.job_id == job.id,
            JobEvent.type == "log",
            JobEvent.data["fused_layers"].as_boolean().is_not(None),
        )
        .order_by(JobEvent.id.desc())
        .limit(2)
    )
    warnings = [event for event in session.scalars(newest) if event.data.get("level") == "warning"]
    return str(warnings[0].data.get("message", "")) if warnings else ""


def last_error(session: Session, *, job: Job) -> dict[str, Any]:
    """The newest error event's data: code, message, kept, lines. Empty if there is none."""
    newest = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type == "error")
        .order_by(JobEvent.id.desc())
        .limit(1)
    )
    event = session.scalars(newest).first()
    return event.data if event else {}


def kept_on_cancel(session: Session, *, job: Job) -> str:
    """What the newest end of the run said that it kept."""
    newest = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type == "state")
        .order_by(JobEvent.id.desc())
        .limit(1)
    )
    event = session.scalars(newest).first()
    return str(event.data.get("kept", "")) if event else ""


def recent_points(
    session: Session, *, run: TrainingRun, steps: int = 12, evals: int = 24
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(eval points, step points), each newest first."""
    found = []
    for kind, limit in (("eval", evals), ("step", steps)):
        newest = (
            select(JobEvent)
            .where(JobEvent.job_id == run.job_id, JobEvent.type == kind)
            .order_by(JobEvent.id.desc())
            .limit(limit)
        )
        found.append(points(run, session.scalars(newest)))
    return found[0], found[1]


def samples(session: Session, *, job: Job) -> list[Sample]:
    """Sampled answers by prompt, in the order in which the prompts came; of a phase that ran twice, the newer ones."""
    rows = session.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type == "sample")
        .order_by(JobEvent.id)
        .limit(SAMPLES)
    )
    by_prompt: dict[str, Sample] = {}
    for event in rows:
        prompt = event.data.get("prompt") or []
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        decoding = str(event.data.get("decoding") or "")
        sample = by_prompt.setdefault(decoding + repr(messages), Sample(messages, decoding))
        sample.answers[str(event.data.get("phase", "after"))] = str(event.data.get("completion") or "")
    return list(by_prompt.values())
