"""What a run has told so far, read back from its events for its page: chart points, samples, the end of its log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.events.reading import of_row, of_rows
from app.events.types import EVAL_PREFIX, Event, Failed, Logged, Sampled, StateChanged
from app.models import EventType, Job, JobEvent

CHARTED = (
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "log_ratios/chosen",
    "log_ratios/rejected",
    "grad_norm",
    "learning_rate",
)
IN_LOG = frozenset({EventType.LOG, EventType.STATE, EventType.ERROR, EventType.CHECKPOINT})
LOG_LINES = 200
SAMPLES = 512  # before and after, greedy and sampled, of the most prompts that a run may ask, twice
MOST_POINTS = 4000  # beyond this a chart has several points a pixel; they are thinned evenly


@dataclass(slots=True)
class Sample:
    """One prompt with what the model answered, by phase: {"before": text, "after": text}. `decoding`: greedy or sampled."""

    prompt: list[dict[str, Any]]
    decoding: str = ""
    answers: dict[str, str] = field(default_factory=dict)

    @property
    def is_unchanged(self) -> bool:
        """Whether training left the answer as it was, to the letter."""
        return "before" in self.answers and self.answers["before"] == self.answers.get("after")


def point(row: JobEvent) -> dict[str, Any] | None:
    """A step or eval event as a chart point {id, kind, step, metric: value …}; None for any other event.

    Eval metrics lose their `eval_`, so that a chart names one metric for both kinds. What the engine didn't print is
    missing: nothing is worked out here.
    """
    if row.type not in (EventType.STEP, EventType.EVAL) or row.step is None:
        return None
    metrics = of_row(row).numbers(EVAL_PREFIX if row.type is EventType.EVAL else "")
    if not metrics.get("rewards/margins"):
        metrics.pop(
            "rewards/accuracies", None
        )  # policy and reference are equal: no answer is preferred, rightly or not
    rounded = {key: float(f"{metrics[key]:.6g}") for key in CHARTED if key in metrics}
    return {"id": row.id, "kind": row.type.value, "step": row.step, **rounded}


def points(rows: Iterable[JobEvent]) -> list[dict[str, Any]]:
    """The chart points among these events, in their order."""
    return [one for row in rows if (one := point(row))]


def lacks_log_ratios(points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are points of an engine that didn't print log-ratios: the first release's."""
    steps = [one for one in points if one["kind"] == EventType.STEP]
    return bool(steps) and not any("log_ratios/chosen" in one for one in steps)


def chart_points(session: Session, *, job: Job) -> list[dict[str, Any]]:
    """Every point of the run so far. A step that a resumed run took again counts once, as it went the last time."""
    rows = session.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type.in_((EventType.STEP, EventType.EVAL)))
        .order_by(JobEvent.id)
    )
    newest = {(one["kind"], one["step"]): one for one in points(rows)}
    in_order = sorted(newest.values(), key=lambda one: (one["step"], one["kind"]))
    stride = -(-len(in_order) // MOST_POINTS)
    if stride <= 1:
        return in_order
    return [
        one
        for index, one in enumerate(in_order)
        if one["kind"] == EventType.EVAL or index % stride == 0 or index == len(in_order) - 1
    ]


def last_id(session: Session, *, job: Job) -> int:
    """The id of the newest event: where the stream of a page that shows everything so far goes on. 0: none yet."""
    return session.scalar(select(func.max(JobEvent.id)).where(JobEvent.job_id == job.id)) or 0


def log_tail(session: Session, *, job: Job, lines: int = LOG_LINES) -> list[JobEvent]:
    """The newest log, state and error events, oldest first."""
    newest = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type.in_(IN_LOG))
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
            JobEvent.type == EventType.LOG,
            JobEvent.data["fused_layers"].as_boolean().is_not(None),
        )
        .order_by(JobEvent.id.desc())
        .limit(2)
    )
    said = of_rows(session.scalars(newest))
    # A warning of the number type comes after what was chosen: none is the newest of these where it is well chosen.
    said += of_rows(session.scalars(_about_numbers(job)))[:1]
    warnings = [event.message for event in said if isinstance(event, Logged) and event.level == "warning"]
    return " ".join(dict.fromkeys(filter(None, warnings)))


def computed_in(session: Session, *, job: Job) -> str:
    """The number type that the run computes in, and why, as the engine said when it last began; empty where it didn't."""
    said = of_rows(session.scalars(_about_numbers(job)))
    return next((event.why for event in said if isinstance(event, Logged) and event.why), "")


def _about_numbers(job: Job) -> Select[JobEvent]:
    """What the engine said of its number type when it last began, and a warning of it, newest first."""
    return (
        select(JobEvent)
        .where(
            JobEvent.job_id == job.id,
            JobEvent.type == EventType.LOG,
            JobEvent.data["dtype"].as_string().is_not(None),
        )
        .order_by(JobEvent.id.desc())
        .limit(2)
    )


def last_error(session: Session, *, job: Job) -> Failed | None:
    """The newest of the events that say why the job failed."""
    event = _newest(session, job, EventType.ERROR)
    return event if isinstance(event, Failed) else None


def kept_on_cancel(session: Session, *, job: Job) -> str:
    """What the newest end of the run said that it kept."""
    event = _newest(session, job, EventType.STATE)
    return event.kept or "" if isinstance(event, StateChanged) else ""


def _newest(session: Session, job: Job, type: EventType) -> Event | None:
    rows = select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.type == type).order_by(JobEvent.id.desc())
    row = session.scalars(rows.limit(1)).first()
    return of_row(row) if row is not None else None


def recent_points(
    session: Session, *, job: Job, steps: int = 12, evals: int = 24
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(eval points, step points), each newest first."""

    def newest(kind: EventType, limit: int) -> list[dict[str, Any]]:
        rows = (
            select(JobEvent)
            .where(JobEvent.job_id == job.id, JobEvent.type == kind)
            .order_by(JobEvent.id.desc())
            .limit(limit)
        )
        return points(session.scalars(rows))

    return newest(EventType.EVAL, evals), newest(EventType.STEP, steps)


def samples(session: Session, *, job: Job) -> list[Sample]:
    """Answers by prompt and way of decoding: greedy ones first, those that changed before those that didn't, and else in
    the order in which the prompts came. Of a phase that ran twice, the newer ones."""
    newest = (
        select(JobEvent)
        .where(JobEvent.job_id == job.id, JobEvent.type == EventType.SAMPLE)
        .order_by(JobEvent.id.desc())
        .limit(SAMPLES)
    )
    rows = list(session.scalars(newest))[::-1]
    by_prompt: dict[str, Sample] = {}
    for event in of_rows(rows):
        if not isinstance(event, Sampled):
            continue
        prompt = event.prompt or []
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        decoding = event.decoding or ""
        sample = by_prompt.setdefault(decoding + repr(messages), Sample(messages, decoding))
        sample.answers[event.phase or "after"] = event.completion or ""
    return sorted(by_prompt.values(), key=lambda sample: (sample.decoding != "greedy", sample.is_unchanged))
