"""New answers: the list of generations, the form with its cost, and what one came to."""

import secrets
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session
from app.errors import PrefloopError
from app.models import FINISHED, GeneratedAnswer, GenerationPlan, Import, JobKind, Project, Prompt
from app.paging import Page
from app.routes.loop import generation_form
from app.routes.loop.generation_form import ARMS, FROM, PAIRINGS, Form
from app.services.collecting.blind import hidden
from app.services.collecting.imports import load
from app.services.jobs import workers
from app.services.loop import endpoints, generations
from app.services.loop.generating import answers, cost
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.cost import Cost
from app.services.loop.generating.likeness import Mark
from app.services.loop.generating.wanted import Sampling, drawn_seed
from app.services.training import base_models, checkpoints
from app.web.deps import (
    EngineDep,
    EngineerDep,
    EngineerUploaderDep,
    RowId,
    SessionDep,
    SettingsDep,
    client_address,
)
from app.web.templating import is_fragment, redirect, render

router = APIRouter()

CHECKPOINTS_OFFERED = 20
MARKS = {
    Mark.IDENTICAL.value: "the same as another",
    Mark.NEAR_IDENTICAL.value: "nearly the same as another",
    Mark.NAMES_A_MODEL.value: "names a model",
    Mark.AT_LIMIT.value: "cut at the longest length",
    Mark.EMPTY.value: "empty",
}


@dataclass(frozen=True, slots=True)
class GenerationsPage:
    project: Project
    page: Page[GenerationPlan]
    titles: dict[int, str]
    active: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A source that can be asked: the value that the form sends, its name, and a line on it."""

    value: str
    title: str
    note: str


@dataclass(frozen=True, slots=True)
class NewPage:
    project: Project
    form: Form
    choices: list[tuple[str, list[Choice]]]
    imports: list[Import]
    cost: Cost | None
    problem: str
    workers_able: int
    errors: dict[str, str] = field(default_factory=dict)
    froms: dict[Any, str] = field(default_factory=lambda: FROM)
    pairings: dict[Any, str] = field(default_factory=lambda: PAIRINGS)
    arms: dict[Any, tuple[str, str]] = field(default_factory=lambda: ARMS)


@dataclass(frozen=True, slots=True)
class GenerationPage:
    """`facts`: what was asked; `figures`: what came of it; `marks`: how many answers have each; `mark`: the filter. `hidden`: the
    number of the evaluation that asks about the answers, 0 where they may be seen."""

    project: Project
    plan: GenerationPlan
    name: str
    titles: list[str]
    facts: list[tuple[str, str]]
    figures: list[tuple[str, str]]
    marks: list[tuple[str, str, int]]
    mark: str
    page: Page[tuple[GeneratedAnswer, Prompt]]
    hidden: int
    words: dict[str, str] = field(default_factory=lambda: MARKS)


async def _form(request: Request) -> Form:
    sent = await request.form() if request.method == "POST" else request.query_params
    return generation_form.read(sent, [one for one in sent.getlist("source") if isinstance(one, str)])


FormDep = Annotated[Form, Depends(_form)]


@router.get("/projects/{slug}/generations")
def listing(request: Request, session: SessionDep, here: EngineerDep, page: int = 1) -> Response:
    shown = generations.listing(session, project=here.project, page=page, size=25)
    titles = {plan.job_id: ", ".join(one.title for one in generations.sources(plan)) for plan in shown.items}
    active = any(plan.job.state not in FINISHED for plan in shown.items)
    context = GenerationsPage(here.project, shown, titles, active)
    return render(request, "loop/generations/list.html", context, block="list" if is_fragment(request) else None)


@router.get("/projects/{slug}/generate")
def new(request: Request, session: SessionDep, here: EngineerDep, settings: SettingsDep, form: FormDep) -> Response:
    if not form.key:
        known = [model.name for model in base_models.list_models(settings)]
        asked = form.sources or [f"base:{name}" for name in known if name == here.project.default_base_model]
        sampling = Sampling(seed=drawn_seed() % 1_000_000).stored()
        drawn = {name: str(value) for name, value in sampling.items()}
        key = secrets.token_urlsafe(16)
        form = Form(sources=asked, samples="2", pairing="round_robin", sampling=drawn, key=key)
    return render(request, "loop/generations/new.html", _page(session, here.project, form, settings))


@router.post("/projects/{slug}/generate/cost")
def show_cost(
    request: Request, form: FormDep, here: EngineerUploaderDep, engine: EngineDep, settings: SettingsDep
) -> Response:
    """What the form as it stands would take; nothing is stored. By POST, since prompts that are written there may be long."""
    with read_session(engine) as session:
        page = _page(session, here.project, form, settings)
        return render(request, "loop/generations/new.html", page, block="cost")


@router.post("/projects/{slug}/generate")
def create(
    request: Request, form: FormDep, here: EngineerUploaderDep, engine: EngineDep, settings: SettingsDep
) -> Response:
    try:
        plan = generations.begin(
            engine, project=here.project, by_id=here.user.id, order=form.order(),
            idempotency_key=form.key or None, address=client_address(request),
        )  # fmt: skip
        return redirect(f"/jobs/{plan.job_id}")
    except PrefloopError as error:
        errors, status = {str(error.details.get("field", "")): str(error)}, error.status
    with read_session(engine) as session:
        page = _page(session, here.project, form, settings, errors)
        return render(request, "loop/generations/new.html", page, status=status)


@router.get("/generations/{job_id}")
def show(
    job_id: RowId, request: Request, session: SessionDep, _: EngineerDep, mark: str = "", page: int = 1
) -> Response:
    plan = generations.get(session, job_id)
    mark = mark if mark in MARKS else ""
    counts = plan.counts
    blind = hidden.evaluation(session, plan.evaluation_id)
    shown = (
        answers.listing(session, job_id=job_id, page=page, size=20, mark=mark) if blind is None else Page([], 1, 20, 0)
    )
    context = GenerationPage(
        project=plan.job.project,
        plan=plan,
        name=f"Generation {job_id}",
        titles=[source.title for source in generations.sources(plan)],
        facts=_facts(plan),
        figures=_figures(plan),
        marks=[(key, words, counts[key]) for key, words in MARKS.items() if counts.get(key) and blind is None],
        mark=mark,
        page=shown,
        hidden=blind.number if blind else 0,
    )
    return render(request, "loop/generations/show.html", context)


def _page(
    session: Session, project: Project, form: Form, settings: Settings, errors: dict[str, str] | None = None
) -> NewPage:
    told, problem = None, ""
    try:
        told = generations.estimate(session, project=project, order=form.order())
    except PrefloopError as error:
        problem = str(error) if form.sources else "Choose a source."
    living = workers.alive(session, silent_after=settings.worker_lease_seconds)
    return NewPage(
        project=project,
        form=form,
        choices=_choices(session, project, settings),
        imports=load.listing(session, project=project, limit=20),
        cost=told,
        problem=problem,
        workers_able=len(workers.able(living, JobKind.GENERATION)),
        errors=errors or {},
    )


def _choices(session: Session, project: Project, settings: Settings) -> list[tuple[str, list[Choice]]]:
    """What can be asked, by sort; sorts of which there is nothing are left out."""
    bases = [
        Choice(f"base:{model.name}", model.title, f"{model.parameters / 1e6:,.0f} M parameters")
        for model in base_models.list_models(settings)
    ]
    trained = [
        Choice(
            f"checkpoint:{row.id}", f"Checkpoint {row.id}", f"run {row.job_id} on {row.run.base_model}, step {row.step}"
        )
        for row in checkpoints.listing(session, project=project, size=CHECKPOINTS_OFFERED).items
    ]
    servers = [
        Choice(f"endpoint:{row.name}", row.name, f"{row.model} at {row.base_url}") for row in endpoints.listing(session)
    ]
    every = [("Checkpoints of this project", trained), ("Base models", bases), ("Endpoints", servers)]
    return [(title, choices) for title, choices in every if choices]


def _facts(plan: GenerationPlan) -> list[tuple[str, str]]:
    sampling = plan.sampling
    return [
        ("Prompts", f"{len(plan.prompts['ids']):,}"),
        ("Answers a prompt and source", str(plan.samples)),
        ("Temperature", f"{sampling['temperature']:g}"),
        ("Top p", f"{sampling['top_p']:g}"),
        ("Longest answer", f"{sampling['max_new_tokens']:,} tokens"),
        ("Seed", str(sampling["seed"])),
        ("Pairs", PAIRINGS[plan.pairing] if plan.evaluation_id is None else "Those of an evaluation"),
        *_arms(generations.arms_of(plan)),
    ]


def _arms(arms: Arms) -> list[tuple[str, str]]:
    if not arms.chooses:
        return []
    shares = (
        ", ".join(f"{ARMS[arm][0].lower()} {100 * share:.0f} %" for arm, share in arms.shares.items()) or "random 100 %"
    )
    by = [("Margins by", f"Checkpoint {arms.checkpoint_id}")] if arms.checkpoint_id else []
    return [("Asked of the pairs", f"{100 * arms.keep:.0f} %"), ("Arms", shares), *by]


def _figures(plan: GenerationPlan) -> list[tuple[str, str]]:
    """What came of it, without what didn't happen."""
    counts = plan.counts
    names = (
        ("answers", "Answers"),
        ("failed", "Not given"),
        ("pairs", "New pairs"),
        ("pairs_known", "Pairs that were there"),
        ("same_pairs", "Not paired: the same"),
        ("near_pairs", "Not paired: nearly the same"),
        *((f"arm_{arm.value}", f"Asked: {title.lower()}") for arm, (title, _) in ARMS.items() if plan.arms),
        ("arm_none", "Asked: drawn for an arm that knew no more"),
        ("not_asked", "Pairs that no arm chose"),
        ("tokens", "Tokens written"),
    )
    told = [(words, f"{counts[name]:,}") for name, words in names if counts.get(name)]
    return told + [("Cost", f"{amount:,.4g} {currency}") for currency, amount in cost.paid(plan).items() if amount]
