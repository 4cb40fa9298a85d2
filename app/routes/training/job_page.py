"""What the page of a job shows, whatever its kind: where it stands, what became of it, the end of its log."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.config import Settings
from app.events.reading import of_row
from app.events.types import CheckpointSaved, Event, Failed, Logged, PhaseReached, StateChanged
from app.models import FINISHED, Job, JobEvent, JobKind, JobState, Project
from app.services.jobs import waiting
from app.services.jobs.jobs import NOUNS
from app.services.jobs.waiting import Waiting
from app.services.loop import generations
from app.services.loop.labels import checks
from app.services.training import exports, history
from app.web.templating import duration, number

PHASES = {
    "starting": "Starting",
    "loading": "Loading the model",
    "reference": "Scoring the reference",
    "training": "Training",
    "evaluating": "Evaluating",
    "exporting": "Writing the checkpoint",
    "scoring": "Asking the trained model",
    "merging": "Merging the adapter",
    "writing": "Writing the files",
    "proving": "Comparing with the trained model",
    "publishing": "Storing the result",
    "generating": "Writing answers",
    "asking": "Asking for answers",
}
ENDS = {JobState.SUCCEEDED: "Finished", JobState.FAILED: "Failed", JobState.CANCELLED: "Cancelled"}
NEXT_STEPS = {
    "worker_lost": "Look at the worker's machine and its log, start the worker again, then press Retry.",
    "disk_full": "Free space on the worker's machine, then press Retry.",
}
NEXT_STEPS_OF_EXPORTS = {
    "out_of_memory": "Merging needs the whole model in float32: run a worker on a machine with more memory, then press Retry.",
    "killed": "The machine most likely ran out of memory: merging needs the whole model in float32. Free some, then press Retry.",
    "export_differs": "Nothing was published. Try another format; the message says which comparison failed.",
    "export_refused": "Export the checkpoint as merged weights instead.",
    "not_found": "Add the base model on the worker's machine (prefloop models add), then press Retry.",
}
NEXT_STEPS_OF_GENERATIONS = {
    "out_of_memory": "Ask a smaller model, or run a worker on a machine with more memory, then press Retry.",
    "not_found": "Add the base model on the worker's machine (prefloop models add), then press Retry.",
    "endpoint_unavailable": "Look at the server; when it answers again, press Retry.",
    "endpoint_refused": "Whoever runs the worker adds the server to PREFLOOP_ENDPOINT_HOSTS; then press Retry.",
    "endpoint_redirects": "An admin removes the endpoint and adds the address that it leads to; then ask anew.",
    "endpoint_missing": "An admin removes the endpoint and adds it with the right address and model; then ask anew.",
}
NEXT_STEPS_OF_LABEL_CHECKS = {
    "out_of_memory": "Check the labels of a run with a lower “Longest pair” or token budget, or run a worker with more memory.",
    "killed": "The machine most likely ran out of memory: free some, then press Retry; folds that are done are kept.",
    "not_found": "Add the base model on the worker's machine (prefloop models add), then press Retry.",
    "bad_data": "The prompts are too much alike to be cut into so many folds: check with fewer folds.",
    "disk_full": "Free space on the worker's machine, then press Retry: folds that are done are kept.",
}
NEXT_STEPS_OF_RUNS = {
    "out_of_memory": "Retry with a lower “Longest pair”, token budget or batch size, or take a smaller model.",
    "killed": "The machine most likely ran out of memory: free some, or retry with a lower token budget or “Longest pair”.",
    "not_finite": "Retry with a lower learning rate, or with float32 weights.",
    "disk_full": "Free space on the worker's machine, then press Retry: the run goes on from its last training state.",
}
NEXT_STEPS_OF = {
    JobKind.TRAINING: NEXT_STEPS_OF_RUNS,
    JobKind.EXPORT: NEXT_STEPS_OF_EXPORTS,
    JobKind.GENERATION: NEXT_STEPS_OF_GENERATIONS,
    JobKind.LABEL_CHECK: NEXT_STEPS_OF_LABEL_CHECKS,
}
RETRY = "Press Retry to try it again."
RETRY_RUN = "Press Retry to go on from the last training state, or start a new run with other settings."


@dataclass(frozen=True, slots=True)
class Status:
    """The line at the top. `spoken` changes rarely: a screen reader says it at each change."""

    noun: str
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
class JobPage:
    """The page of a job whose kind has none of its own. `name`: what people call it; `subject`: what it works on, and
    where that is shown."""

    project: Project
    job: Job
    name: str
    subject: tuple[str, str] | None
    over: bool
    status: Status
    outcome: Outcome
    waiting: Waiting | None
    log: list[LogLine]


def page(session: Session, *, job: Job, settings: Settings) -> JobPage:
    """The page as it is now; it loads its block again while the job isn't over."""
    queue = waiting.of(session, jobs=[job], silent_after=settings.worker_lease_seconds).get(job.id)
    return JobPage(
        project=job.project,
        job=job,
        name=name(job),
        subject=_subject(session, job),
        over=job.state in FINISHED,
        status=status(job, queue),
        outcome=outcome(session, job),
        waiting=queue,
        log=log(session, job),
    )


def _subject(session: Session, job: Job) -> tuple[str, str] | None:
    if job.kind is JobKind.GENERATION:
        plan = generations.get(session, job.id)
        sources = ", ".join(source.title for source in generations.sources(plan))
        return f"{plan.counts.get('wanted', 0):,} answers of {sources}", f"/generations/{job.id}"
    if job.kind is JobKind.LABEL_CHECK:
        check = checks.get(session, job.id)
        return f"The labels of run {check.of_job_id}", f"/jobs/{check.of_job_id}"
    if job.kind is not JobKind.EXPORT:
        return None
    export = exports.get(session, job.id)
    title = f"{exports.TITLES[export.format]} of checkpoint {export.checkpoint_id}"
    return title, f"/checkpoints/{export.checkpoint_id}#exports"


def name(job: Job) -> str:
    """What people call this job, such as `Run 7`."""
    return f"{NOUNS[job.kind].capitalize()} {job.id}"


def status(job: Job, waiting: Waiting | None) -> Status:
    """Where the job stands; `waiting` says what a queued one waits for."""
    headline, parts = _words(job, waiting)
    tenth = (
        f", {job.step * 10 // job.total_steps * 10} % done" if job.state is JobState.RUNNING and job.total_steps else ""
    )
    return Status(
        NOUNS[job.kind],
        headline,
        parts,
        f"{name(job)}: {headline}{tenth}",
        can_cancel=job.state is JobState.QUEUED or (job.state is JobState.RUNNING and job.cancel_requested_at is None),
        can_retry=job.state in (JobState.FAILED, JobState.CANCELLED),
        cancel_question=f"Cancel {NOUNS[job.kind]} {job.id}? "
        + (
            "It has not started yet."
            if job.state is JobState.QUEUED
            else "Its training state is saved first, and Retry goes on from it."
            if job.kind is JobKind.TRAINING
            else "Answers that arrived are kept, and Retry asks for the others."
            if job.kind is JobKind.GENERATION
            else "Folds that are done are kept, and Retry goes on with the others."
            if job.kind is JobKind.LABEL_CHECK
            else "Retry starts it again."
        ),
    )


def _words(job: Job, waiting: Waiting | None) -> tuple[str, list[str]]:
    of = f"step {number(job.step)} of {number(job.total_steps)}" if job.total_steps else ""
    if job.kind is not JobKind.TRAINING and job.total_steps:
        of = f"{job.step * 100 // job.total_steps} %" if job.state is JobState.RUNNING else ""
    if job.state is JobState.QUEUED:
        return "Waiting for a worker", [waiting.text] if waiting else []
    if job.state is JobState.RUNNING:
        headline = (
            ("Cancelling: saving its state" if job.kind is JobKind.TRAINING else "Cancelling")
            if job.cancel_requested_at
            else PHASES.get(job.phase, job.phase.capitalize() or "Running")
        )
        left = f"about {duration(job.eta_seconds)} left" if job.eta_seconds else ""
        return headline, [part for part in (of, left, f"on {job.worker}" if job.worker else "") if part]
    took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    return ENDS[job.state], [part for part in (of, f"took {duration(took)}" if took is not None else "") if part]


def outcome(session: Session, job: Job) -> Outcome:
    """What became of a job that failed or was cancelled, and what to do next."""
    is_run = job.kind is JobKind.TRAINING
    retry = RETRY_RUN if is_run else RETRY
    if job.state is JobState.FAILED:
        why = history.last_error(session, job=job) or Failed()
        next_steps = NEXT_STEPS | NEXT_STEPS_OF[job.kind]
        return Outcome(
            why.kept or "",
            next_steps.get(job.error_code, retry),
            why.lines or [],
        )
    if job.state is JobState.CANCELLED:
        kept = history.kept_on_cancel(session, job=job)
        return Outcome(kept, "Retry starts it again." if job.started_at is None else retry)
    return Outcome()


def log(session: Session, job: Job) -> list[LogLine]:
    """The end of its log, oldest line first."""
    return [line for event in history.log_tail(session, job=job) if (line := log_line(event))]


def log_line(row: JobEvent) -> LogLine | None:
    """An event as one line of the log; None where there is nothing to say."""
    event = of_row(row)
    at = datetime.fromtimestamp(event.time, UTC) if event.time is not None else row.created_at
    text = _text(event)
    return LogLine(at, event.step, _level(event), text) if text else None


def _level(event: Event) -> str:
    if isinstance(event, Failed):
        return "error"
    return event.level if isinstance(event, Logged) and event.level in ("warning", "error") else "info"


def _text(event: Event) -> str:
    match event:
        case Logged() | Failed():
            return event.message or ""
        case CheckpointSaved():
            return f"Saved {event.name or 'a training state'}."
        case PhaseReached():
            return _phase(event)
        case StateChanged():
            words = f"{event.state.value.capitalize()}."
            if event.worker:
                words = f"Taken by worker {event.worker}, attempt {event.attempt or 1}."
            return " ".join(part for part in (words, event.reason, event.kept) if part)
    return ""


def _phase(event: PhaseReached) -> str:
    """What the program does, and how many pairs of it are done where it counts them."""
    if not event.stage:
        return ""
    text, counts = PHASES.get(event.stage, event.stage.capitalize()), event.numbers()
    if "done" in counts and "missing" in counts:
        return f"{text}: {counts['done']} of {counts['missing']} pairs."
    if "fold" in counts:
        planted = f", round {counts['planting']} with planted flips" if counts.get("planting") else ""
        return f"{text}: fold {counts['fold'] + 1}{planted}."
    return f"{text}."
