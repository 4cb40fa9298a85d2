"""What the page of a run shows: the same contexts for the whole page and for the blocks that its stream sends."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.models import FINISHED, Checkpoint, Job, JobEvent, JobState, Project, TrainingRun
from app.routes.training.run_form import default_text
from app.services.jobs import waiting
from app.services.jobs.waiting import Waiting
from app.services.training import checkpoints, history, run_settings
from app.services.training import outcome as verdicts
from app.services.training.outcome import Verdict
from app.web.templating import duration, number

PHASES = {
    "starting": "Starting",
    "loading": "Loading the model",
    "reference": "Scoring the reference",
    "training": "Training",
    "evaluating": "Evaluating",
    "exporting": "Writing the checkpoint",
    "publishing": "Storing the checkpoint",
}
ENDS = {JobState.SUCCEEDED: "Finished", JobState.FAILED: "Failed", JobState.CANCELLED: "Cancelled"}
NEXT_STEPS = {
    "out_of_memory": "Retry with a lower “Longest pair”, token budget or batch size, or take a smaller model.",
    "killed": "The machine most likely ran out of memory: free some, or retry with a lower token budget or “Longest pair”.",
    "not_finite": "Retry with a lower learning rate, or with float32 weights.",
    "worker_lost": "Look at the worker's machine and its log, start the worker again, then press Retry.",
    "disk_full": "Free space on the worker's machine, then press Retry: the run goes on from its last training state.",
}
RETRY = "Press Retry to go on from the last training state, or start a new run with other settings."


@dataclass(frozen=True, slots=True)
class Series:
    kind: str
    key: str
    label: str
    color: int


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    title: str
    series: tuple[Series, ...]
    unit: str = ""
    minor: bool = False


def _train_and_eval(key: str) -> tuple[Series, ...]:
    return Series("step", key, "train", 1), Series("eval", key, "eval", 2)


CHARTS = (
    Chart("loss", "Loss", _train_and_eval("loss")),
    Chart("margin", "Reward margin", _train_and_eval("rewards/margins")),
    Chart("accuracy", "Reward accuracy", _train_and_eval("rewards/accuracies"), "share of pairs"),
    Chart(
        "log-ratios",
        "Log-ratios to the reference",
        (Series("step", "log_ratios/chosen", "chosen", 3), Series("step", "log_ratios/rejected", "rejected", 4)),
        "nats",
    ),
    Chart("gradient", "Gradient norm", (Series("step", "grad_norm", "norm", 1),), minor=True),
    Chart("rate", "Learning rate", (Series("step", "learning_rate", "rate", 1),), minor=True),
)


@dataclass(frozen=True, slots=True)
class Status:
    """The line at the top. `spoken` changes rarely: a screen reader says it at each change."""

    headline: str
    parts: list[str]
    spoken: str
    can_cancel: bool
    can_retry: bool
    cancel_question: str


@dataclass(frozen=True, slots=True)
class Outcome:
    kept: str = ""
    next_step: str = ""
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LogLine:
    at: datetime
    step: int | None
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownSample:
    role: str
    question: str
    decoding: str
    answers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    label: str
    help: str
    value: str
    default: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Live:
    """What the stream's blocks need; each block shows its whole present state."""

    project: Project
    job: Job
    run: TrainingRun
    over: bool
    status: Status
    outcome: Outcome
    checkpoint: Checkpoint | None
    verdict: Verdict | None
    waiting: Waiting | None
    samples: list[ShownSample] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunPage(Live):
    after: int = 0
    points: list[dict[str, Any]] = field(default_factory=list)
    charts: tuple[Chart, ...] = CHARTS
    configuration: list[tuple[str, list[Setting]]] = field(default_factory=list)


def page(session: Session, *, run: TrainingRun, settings: Settings) -> RunPage:
    """The whole page. The stream goes on after the newest event that it shows."""
    after = history.last_id(session, job=run.job)
    shown = live(session, run=run, settings=settings, kinds={"sample", "log", "step", "eval"})
    return RunPage(
        **{name: getattr(shown, name) for name in Live.__dataclass_fields__},
        after=after,
        points=history.chart_points(session, run=run),
        configuration=configuration(run.config),
    )


def live(session: Session, *, run: TrainingRun, settings: Settings, kinds: set[str]) -> Live:
    """The blocks that events of these kinds change; status and outcome always."""
    job = run.job
    queue = waiting.of(session, jobs=[job], silent_after=settings.worker_lease_seconds)
    saved = checkpoints.of_run(session, run=run) if job.state is JobState.SUCCEEDED else []
    checkpoint = saved[-1] if saved else None
    shown = Live(
        project=job.project,
        job=job,
        run=run,
        over=job.state in FINISHED,
        status=status(job, queue.get(job.id)),
        outcome=outcome(session, job),
        checkpoint=checkpoint,
        verdict=verdicts.verdict(checkpoint.metrics) if checkpoint else None,
        waiting=queue.get(job.id),
    )
    if "sample" in kinds:
        shown = replace(shown, samples=[_sample(one) for one in history.samples(session, job=job)])
    if kinds & {"log", "state", "error", "checkpoint"}:
        shown = replace(shown, log=[line for event in history.log_tail(session, job=job) if (line := log_line(event))])
    if kinds & {"step", "eval"}:
        evals, steps = history.recent_points(session, run=run)
        shown = replace(shown, evals=evals, steps=steps)
    return shown


def status(job: Job, waiting: Waiting | None) -> Status:
    """Where the run stands; `waiting` says what a queued one waits for."""
    headline, parts = _words(job, waiting)
    tenth = (
        f", {job.step * 10 // job.total_steps * 10} % done" if job.state is JobState.RUNNING and job.total_steps else ""
    )
    return Status(
        headline,
        parts,
        f"Run {job.id}: {headline}{tenth}",
        can_cancel=job.state is JobState.QUEUED or (job.state is JobState.RUNNING and job.cancel_requested_at is None),
        can_retry=job.state in (JobState.FAILED, JobState.CANCELLED),
        cancel_question=f"Cancel run {job.id}? "
        + (
            "It has not started yet."
            if job.state is JobState.QUEUED
            else "Its training state is saved first, and Retry goes on from it."
        ),
    )


def _words(job: Job, waiting: Waiting | None) -> tuple[str, list[str]]:
    of = f"step {number(job.step)} of {number(job.total_steps)}" if job.total_steps else ""
    if job.state is JobState.QUEUED:
        return "Waiting for a worker", [waiting.text] if waiting else []
    if job.state is JobState.RUNNING:
        headline = (
            "Cancelling: saving its state"
            if job.cancel_requested_at
            else PHASES.get(job.phase, job.phase.capitalize() or "Running")
        )
        left = f"about {duration(job.eta_seconds)} left" if job.eta_seconds else ""
        return headline, [part for part in (of, left, f"on {job.worker}" if job.worker else "") if part]
    took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    return ENDS[job.state], [part for part in (of, f"took {duration(took)}" if took is not None else "") if part]


def outcome(session: Session, job: Job) -> Outcome:
    if job.state is JobState.FAILED:
        told = history.last_error(session, job=job)
        return Outcome(
            str(told.get("kept", "")),
            NEXT_STEPS.get(job.error_code, RETRY),
            [str(line) for line in told.get("lines", [])],
        )
    if job.state is JobState.CANCELLED:
        kept = history.kept_on_cancel(session, job=job)
        return Outcome(kept, "Retry starts it again." if job.started_at is None else RETRY)
    return Outcome()


def log_line(event: JobEvent) -> LogLine | None:
    """An event as one line of the log; None where there is nothing to say."""
    data, level = event.data, str(event.data.get("level", "info"))
    text = str(data.get("message", ""))
    if event.type == "state":
        text = _state_text(data)
    elif event.type == "error":
        level = "error"
    elif event.type == "checkpoint":
        text = text or f"Saved {data.get('name') or data.get('path') or 'a training state'}."
    at = datetime.fromtimestamp(data["time"], UTC) if isinstance(data.get("time"), int | float) else event.created_at
    return LogLine(at, event.step, level if level in ("warning", "error") else "info", text) if text else None


def _state_text(data: dict[str, Any]) -> str:
    if phase := data.get("stage"):
        return f"{PHASES.get(phase, str(phase).capitalize())}."
    words = f"{str(data.get('state', '')).capitalize()}."
    if data.get("worker"):
        words = f"Taken by worker {data['worker']}, attempt {data.get('attempt', 1)}."
    return " ".join(part for part in (words, str(data.get("reason", "")), str(data.get("kept", ""))) if part)


def _sample(sample: history.Sample) -> ShownSample:
    last = sample.prompt[-1] if sample.prompt else {}
    return ShownSample(str(last.get("role", "user")), str(last.get("content", "")), sample.decoding, sample.answers)


def configuration(config: dict[str, Any]) -> list[tuple[str, list[Setting]]]:
    """Every setting with its value, by group; what differs from the default is marked."""
    groups: dict[str, list[Setting]] = {group: [] for group in run_settings.GROUPS}
    for option in run_settings.OPTIONS:
        value = config.get(option.key, option.default)
        changed = value != option.default
        groups[option.group].append(
            Setting(option.label, option.help, _value(option, value), default_text(option), changed)
        )
    return list(groups.items())


def _value(option: run_settings.Option, value: Any) -> str:
    if value is None:
        return default_text(option)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return (
            ", ".join(" × ".join(map(str, part)) if isinstance(part, list) else str(part) for part in value) or "none"
        )
    return f"{value:g} {option.unit}".strip() if isinstance(value, int | float) else str(value)
