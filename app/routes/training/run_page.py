"""What the page of a run shows: the same contexts for the whole page and for the blocks that its stream sends."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.models import FINISHED, Checkpoint, EventType, Job, JobState, Project, TrainingRun
from app.routes.loop import lineage
from app.routes.loop.labels import panel as label_panel
from app.routes.loop.labels.panel import LabelsPanel
from app.routes.loop.lineage import LineagePanel
from app.routes.training import job_page
from app.routes.training.job_page import LogLine, Outcome, Status
from app.routes.training.run_form import default_text
from app.services.jobs import waiting
from app.services.jobs.waiting import Waiting
from app.services.training import checkpoints, history, run_settings
from app.services.training import outcome as verdicts
from app.services.training.outcome import Verdict


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
class ShownSample:
    role: str
    question: str
    decoding: str
    answers: dict[str, str]
    unchanged: bool


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
    slow: str
    samples: list[ShownSample] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    lacks_log_ratios: bool = False


@dataclass(frozen=True, slots=True)
class RunPage(Live):
    after: int = 0
    points: list[dict[str, Any]] = field(default_factory=list)
    charts: tuple[Chart, ...] = CHARTS
    configuration: list[tuple[str, list[Setting]]] = field(default_factory=list)
    computed_in: str = ""
    origins: LineagePanel | None = None
    labels: LabelsPanel | None = None


def page(session: Session, *, run: TrainingRun, settings: Settings) -> RunPage:
    """The whole page. The stream goes on after the newest event that it shows."""
    after = history.last_id(session, job=run.job)
    shown = live(session, run=run, settings=settings, types=set(EventType))
    return RunPage(
        **{name: getattr(shown, name) for name in Live.__dataclass_fields__},
        after=after,
        points=history.chart_points(session, job=run.job),
        configuration=configuration(run.config),
        computed_in=history.computed_in(session, job=run.job),
        origins=lineage.of_run(session, run),
        labels=label_panel.of_run(session, run),
    )


def live(session: Session, *, run: TrainingRun, settings: Settings, types: Collection[EventType]) -> Live:
    """The blocks that events of these types change; status and outcome always."""
    job = run.job
    queue = waiting.of(session, jobs=[job], silent_after=settings.worker_lease_seconds)
    saved = checkpoints.of_run(session, run=run) if job.state is JobState.SUCCEEDED else []
    checkpoint = saved[-1] if saved else None
    shown = Live(
        project=job.project,
        job=job,
        run=run,
        over=job.state in FINISHED,
        status=job_page.status(job, queue.get(job.id)),
        outcome=job_page.outcome(session, job),
        checkpoint=checkpoint,
        verdict=verdicts.verdict(checkpoint.metrics) if checkpoint else None,
        waiting=queue.get(job.id),
        slow=history.slow_because(session, job=job),
    )
    if EventType.SAMPLE in types:
        shown = replace(shown, samples=[_sample(one) for one in history.samples(session, job=job)])
    if not history.IN_LOG.isdisjoint(types):
        shown = replace(shown, log=job_page.log(session, job))
    if not {EventType.STEP, EventType.EVAL}.isdisjoint(types):
        evals, steps = history.recent_points(session, job=job)
        shown = replace(shown, evals=evals, steps=steps, lacks_log_ratios=history.lacks_log_ratios(steps))
    return shown


def _sample(sample: history.Sample) -> ShownSample:
    last = sample.prompt[-1] if sample.prompt else {}
    return ShownSample(
        role=str(last.get("role", "user")),
        question=str(last.get("content", "")),
        decoding=sample.decoding,
        answers=sample.answers,
        unchanged=sample.is_unchanged,
    )


def configuration(config: dict[str, Any]) -> list[tuple[str, list[Setting]]]:
    """Every setting with its value, by group; what differs from the default is marked."""
    groups: dict[str, list[Setting]] = {group: [] for group in run_settings.GROUPS}
    for option in run_settings.OPTIONS:
        value = config.get(option.key, option.default)
        changed = value != option.default
        groups[option.group].append(
            Setting(option.label, option.setting.meaning, _value(option, value), default_text(option), changed)
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
    if isinstance(value, int | float):
        return option.in_words(value) or f"{value:g} {option.unit}".strip()
    return str(value)
