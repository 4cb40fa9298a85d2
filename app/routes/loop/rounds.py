"""Rounds of a project: the whole loop by one form, and each round's steps on a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import PrefloopError
from app.models import Arm, Checkpoint, Job, JobState, Project, Round, RoundState, RoundStep, Snapshot, User
from app.models.evaluation import Evaluation
from app.paging import Page
from app.routes.loop.generation_form import ARMS, arms_of, shares_of, whole
from app.services.accounts.access import Caller
from app.services.collecting import counts
from app.services.jobs import jobs
from app.services.loop import evaluations
from app.services.loop.generating.wanted import AnswerSource
from app.services.loop.rounding import rounds, steps
from app.services.loop.rounding.plan import RoundPlan
from app.services.training import base_models, checkpoints, presets, run_settings
from app.services.training.presets import PRESETS
from app.web.deps import EngineDep, EngineerDep, EngineerUploaderDep, SessionDep, SettingsDep, StorageDep
from app.web.templating import is_fragment, redirect, render

router = APIRouter()
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
EMPTY = ("from_checkpoint", "new_pairs_only", "judgments", "max_new_tokens", "learning_rate")
TITLES = {
    RoundStep.ANSWERS: "New answers",
    RoundStep.JUDGMENTS: "Judgments",
    RoundStep.SNAPSHOT: "Snapshot",
    RoundStep.TRAINING: "Training",
    RoundStep.EVALUATION: "Blind comparison",
    RoundStep.VERDICT: "Verdict",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step as its line shows it. mark: done, now, failed or open. link: (text, url) of its own page."""

    title: str
    mark: str
    text: str
    link: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RoundPage:
    project: Project
    round: Round
    steps: list[Step]
    moving: bool


@dataclass(frozen=True, slots=True)
class RoundsPage:
    """`form`: what stands in the fields; `sources`, `models`, `starts`, `opponents`: (value, text) to choose from."""

    project: Project
    page: Page[Round]
    titles: dict[RoundStep, str]
    current: Round | None
    sources: list[tuple[str, str]]
    models: list[tuple[str, str]]
    starts: list[tuple[str, str]]
    opponents: list[tuple[str, str]]
    presets: list[tuple[str, str]]
    form: dict[str, Any]
    errors: dict[str, str] = field(default_factory=dict)
    arms: dict[Arm, tuple[str, str]] = field(default_factory=lambda: ARMS)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the form sent: its fields, and the sources that were ticked."""

    fields: dict[str, str]
    sources: list[str]


async def _sent(request: Request) -> Sent:
    form = await request.form()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Sent(fields, [value for value in form.getlist("sources") if isinstance(value, str)])


SentDep = Annotated[Sent, Depends(_sent)]


@router.get("/projects/{slug}/rounds")
def listing(request: Request, session: SessionDep, here: EngineerDep, settings: SettingsDep, page: int = 1) -> Response:
    return render(request, "loop/rounds/list.html", _listing(session, here.project, settings, page=page))


def _listing(
    session: Session,
    project: Project,
    settings: Settings,
    *,
    page: int = 1,
    form: dict[str, Any] | None = None,
    errors: dict[str, str] | None = None,
) -> RoundsPage:
    models = [(model.name, model.name) for model in base_models.list_models(settings)]
    newest = checkpoints.listing(session, project=project, size=10).items
    known = [(str(row.id), f"Checkpoint {row.id} of run {row.job_id}") for row in newest]
    sources = [(f"checkpoint:{number}", f"c{text[1:]}") for number, text in known] + [
        (AnswerSource.base(name).key, f"{name}, the base model") for name, _ in models
    ]
    default = project.default_base_model if (project.default_base_model,) * 2 in models else ""
    start: dict[str, Any] = dict.fromkeys(EMPTY, "") | {
        "sources": [sources[0][0]] if sources else [],
        "samples": 2,
        "limit": 100,
        "base_model": default or (models[0][0] if models else ""),
        "preset": presets.preset_for(counts.figures(session, project_id=project.id).judged),
        "opponent": "parent",
        "maximum": 400,
        "goal": "superiority",
    }
    return RoundsPage(
        project=project,
        page=rounds.listing(session, project=project, page=page),
        titles=TITLES,
        current=rounds.current(session, project=project),
        sources=sources,
        models=models,
        starts=[("", "The base model"), *known],
        opponents=[
            ("parent", "What the run starts from"),
            ("base", "The base model"),
            *known,
            ("", "Nothing: end with the checkpoint"),
        ],
        presets=[(preset.name, preset.title) for preset in PRESETS],
        form=start | (form or {}),
        errors=errors or {},
    )


@router.post("/projects/{slug}/rounds")
def start(
    request: Request,
    sent: SentDep,
    engine: EngineDep,
    here: EngineerUploaderDep,
    settings: SettingsDep,
    storage: StorageDep,
) -> Response:
    try:
        plan = RoundPlan.of(_wished(sent.fields, sent.sources))
        steps.require(engine, plan, project=here.project, caller=Caller.of(here.user))
        with write_session(engine) as session:
            row, _ = rounds.start(session, project=here.project, plan=plan, by=session.get_one(User, here.user.id))
            number = row.number
        steps.advance(engine, storage, row.id)
        return redirect(f"/projects/{here.project.slug}/rounds/{number}")
    except PrefloopError as error:
        problems = run_settings.problems_of(error) or {str(error.details.get("field", "")): str(error)}
        status = error.status
    with read_session(engine) as session:
        page = _listing(session, here.project, settings, form={**sent.fields, "sources": sent.sources}, errors=problems)
        return render(request, "loop/rounds/list.html", page, status=status)


def _wished(fields: dict[str, str], sources: Sequence[str]) -> dict[str, Any]:
    """What the form says, as RoundPlan reads it. An empty field is its default."""
    wished: dict[str, Any] = {name: fields.get(name, "") for name in ("base_model", "preset", "opponent")}
    wished["sources"] = list(sources)
    wished["new_pairs_only"] = fields.get("new_pairs_only") == "true"
    for name in ("samples", "limit", "judgments", "from_checkpoint"):
        if text := fields.get(name, "").strip():
            wished[name] = whole(text, name)
    if text := fields.get("max_new_tokens", "").strip():
        wished["sampling"] = {"max_new_tokens": whole(text, "max_new_tokens")}
    chosen = arms_of(shares_of(fields), fields.get("keep", ""))
    if chosen.chooses:
        wished |= {"arms": {arm.value: share for arm, share in chosen.shares.items()}, "keep": chosen.keep}
    if text := fields.get("learning_rate", "").strip():
        wished["config"] = run_settings.parse([f"learning_rate={text}"])
    if wished["opponent"]:
        evaluation: dict[str, Any] = {"goal": fields.get("goal", "superiority")}
        if text := fields.get("maximum", "").strip():
            evaluation["maximum"] = whole(text, "maximum")
        wished["evaluation"] = evaluation
    return wished


@router.get("/projects/{slug}/rounds/{number}")
def show(number: Number, request: Request, session: SessionDep, here: EngineerDep) -> Response:
    row = rounds.numbered(session, project=here.project, number=number)
    moving = row.state is RoundState.RUNNING
    page = RoundPage(here.project, row, _steps(session, here.project, row), moving)
    return render(request, "loop/rounds/show.html", page, block="steps" if is_fragment(request) else None)


@router.post("/projects/{slug}/rounds/{number}/stop")
def stop(number: Number, engine: EngineDep, here: EngineerDep) -> Response:
    with write_session(engine) as session:
        row = rounds.numbered(session, project=here.project, number=number)
        rounds.stop(session, row=row, by=session.get_one(User, here.user.id))
    return redirect(f"/projects/{here.project.slug}/rounds/{number}")


@router.post("/projects/{slug}/rounds/{number}/retry")
def retry(number: Number, engine: EngineDep, here: EngineerUploaderDep, storage: StorageDep) -> Response:
    with write_session(engine) as session:
        row = rounds.numbered(session, project=here.project, number=number)
        rounds.retry(session, row=row, by=session.get_one(User, here.user.id))
    steps.advance(engine, storage, row.id)
    return redirect(f"/projects/{here.project.slug}/rounds/{number}")


def _steps(session: Session, project: Project, row: Round) -> list[Step]:
    plan = rounds.plan_of(row)
    at = rounds.STEPS.index(row.step)
    lines = []
    for place, step in enumerate(rounds.STEPS):
        if step is RoundStep.ANSWERS and not plan.sources:
            lines.append(Step(TITLES[step], "done", "None were wanted: what is there already is judged."))
            continue
        if step in (RoundStep.EVALUATION, RoundStep.VERDICT) and not plan.opponent:
            continue
        mark = "done" if place < at or row.state is RoundState.FINISHED else "open"
        if place == at and row.state is not RoundState.FINISHED:
            mark = {RoundState.FAILED: "failed", RoundState.STOPPED: "stopped"}.get(row.state, "now")
        text, link = _told(session, project, row, plan, step, mark)
        lines.append(Step(TITLES[step], mark, text, link))
    return lines


def _told(
    session: Session, project: Project, row: Round, plan: RoundPlan, step: RoundStep, mark: str
) -> tuple[str, tuple[str, str] | None]:
    """What a step's line says, and the page that it leads to."""
    if mark == "failed":
        return row.problem, _page_of(session, project, row, step)
    if mark == "open":
        return "", None
    link, waits = _page_of(session, project, row, step), mark == "now"
    evaluation = session.get(Evaluation, row.evaluation_id) if row.evaluation_id else None
    match step:
        case RoundStep.ANSWERS:
            return _progress(session, row.generation_job_id, "answers"), link
        case RoundStep.JUDGMENTS:
            left = steps.waits_for(session, row) if waits else 0
            noun = "judgments" if plan.judgments else "pairs"
            return (f"Waits for people: {left:,} {noun} to go." if waits else "Judged."), link
        case RoundStep.SNAPSHOT:
            frozen = session.get(Snapshot, row.snapshot_id) if row.snapshot_id else None
            return (f"{frozen.counts.pairs:,} pairs, frozen." if frozen else "Freezes what was judged."), link
        case RoundStep.TRAINING:
            return _progress(session, row.training_job_id, "steps"), link
        case RoundStep.EVALUATION:
            if evaluation is None:
                return "Draws its prompts.", link
            if waits and evaluation.job_id and evaluation.state.value == "preparing":
                return "Both sides answer. " + _progress(session, evaluation.job_id, "answers"), link
            return ("People judge both sides blind, between ordinary pairs." if waits else "Judged."), link
        case RoundStep.VERDICT:
            outcome = evaluation.outcome if evaluation else ""
            return outcome.replace("_", " ").capitalize(), link


def _page_of(session: Session, project: Project, row: Round, step: RoundStep) -> tuple[str, str] | None:
    """The page of what a step made."""
    match step:
        case RoundStep.ANSWERS if row.generation_job_id:
            return f"Generation {row.generation_job_id}", f"/jobs/{row.generation_job_id}"
        case RoundStep.JUDGMENTS:
            return "Compare", f"/projects/{project.slug}/compare"
        case RoundStep.SNAPSHOT if row.snapshot_id:
            return f"Snapshot {session.get_one(Snapshot, row.snapshot_id).number}", f"/snapshots/{row.snapshot_id}"
        case RoundStep.TRAINING if row.training_job_id:
            return f"Run {row.training_job_id}", f"/jobs/{row.training_job_id}"
        case RoundStep.EVALUATION | RoundStep.VERDICT if row.evaluation_id:
            number = evaluations.get(session, row.evaluation_id).number
            return f"Evaluation {number}", f"/projects/{project.slug}/evaluations/{number}"
    if step is RoundStep.VERDICT and row.checkpoint_id and session.get(Checkpoint, row.checkpoint_id):
        return f"Checkpoint {row.checkpoint_id}", f"/checkpoints/{row.checkpoint_id}"
    return None


def _progress(session: Session, job_id: int | None, noun: str) -> str:
    if job_id is None:
        return "Starts."
    job: Job = jobs.get(session, job_id)
    if job.state is JobState.SUCCEEDED:
        return f"Done, {job.step:,} {noun}."
    if job.state is JobState.QUEUED:
        return "Waits for a worker."
    return f"{job.step:,} of {job.total_steps:,} {noun}." if job.total_steps else "Begins."
