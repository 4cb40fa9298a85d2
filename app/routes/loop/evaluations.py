"""Pages of blind batches: the list of a project, the form that starts one, and how one is asked."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Engine

from app.db import read_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Checkpoint, Evaluation, Job, Project, Split
from app.paging import Page
from app.services.loop import batches, evaluations, verdicts
from app.services.loop.evaluating import keeping, standing
from app.services.loop.evaluating import promise as promises
from app.services.loop.evaluating.sides import ACTIVE
from app.services.loop.evaluating.standing import Standing
from app.services.loop.evaluating.wanted import MOST_PROMPTS, BothBad, Skips, Wanted
from app.services.training import checkpoints
from app.stats.loop.decision import Goal
from app.web.deps import (
    EngineDep,
    EngineerDep,
    EngineerUploaderDep,
    LeadDep,
    RowId,
    SessionDep,
    SettingsDep,
    client_address,
)
from app.web.templating import is_fragment, redirect, render

router = APIRouter()

GOALS = [(Goal.SUPERIORITY.value, "better than it"), (Goal.NON_INFERIORITY.value, "not worse than it")]
SPLITS = [(Split.EVAL.value, "those of the eval split"), (Split.KEPT.value, "those kept for evaluation")]
BOTH_BAD = [(BothBad.TIE.value, "counts as a tie"), (BothBad.LEAVE_OUT.value, "leaves the prompt out")]
SKIPS = [(Skips.ASK_OTHERS.value, "asks somebody else"), (Skips.LEAVE_OUT.value, "leaves the prompt out")]


class PlanForm(BaseModel):
    """What is typed, as text, so that a wrong number comes back with its field."""

    opponent: str = "parent"
    goal: str = Goal.SUPERIORITY.value
    margin: str = "5"
    maximum: str = "400"
    votes: str = "1"
    share: str = "30"
    prompts: str = ""
    both_bad: str = BothBad.TIE.value
    skips: str = Skips.ASK_OTHERS.value
    temperature: str = ""
    max_new_tokens: str = ""

    def wanted(self) -> Wanted:
        """The plan. Raises Invalid, naming the field."""
        try:
            kinds = Goal(self.goal), Split(self.prompts or "eval"), BothBad(self.both_bad), Skips(self.skips)
        except ValueError as error:
            raise Invalid("One of the choices isn't there.", "Choose again.", field="goal") from error
        goal, split, both_bad, skips = kinds
        sampling = {"temperature": self.temperature.strip(), "max_new_tokens": self.max_new_tokens.strip()}
        return Wanted(
            goal=goal,
            margin=self._number("margin") / 100,
            maximum=int(self._number("maximum")),
            votes=int(self._number("votes")),
            both_bad=both_bad,
            skips=skips,
            share=int(self._number("share")),
            prompts=split,
            sampling={name: value for name, value in sampling.items() if value},
        ).checked()

    def _number(self, name: str) -> float:
        text = getattr(self, name).strip()
        if not text.replace(".", "", 1).isascii() or not text.replace(".", "", 1).isdecimal() or len(text) > 9:
            raise Invalid(f"“{text[:20]}” isn't a number.", "Write digits.", field=name)
        return float(text)


@dataclass(frozen=True, slots=True)
class StartPage:
    """`prompts`: those that can be asked now. `told`: what they can decide. `left_out`: why others can't."""

    project: Project
    checkpoint: Checkpoint
    form: PlanForm
    opponents: list[tuple[str, str]]
    prompts: int
    told: str
    left_out: list[str]
    has_kept: bool
    errors: dict[str, str] = field(default_factory=dict)
    goals: list[tuple[str, str]] = field(default_factory=lambda: GOALS)
    splits: list[tuple[str, str]] = field(default_factory=lambda: SPLITS)
    both_bads: list[tuple[str, str]] = field(default_factory=lambda: BOTH_BAD)
    skips: list[tuple[str, str]] = field(default_factory=lambda: SKIPS)
    most: int = MOST_PROMPTS


@dataclass(frozen=True, slots=True)
class ListPage:
    project: Project
    page: Page[Evaluation]
    has_kept: bool


@dataclass(frozen=True, slots=True)
class BatchPage:
    """`notes`: what an engineer has to know of this batch."""

    project: Project
    evaluation: Evaluation
    standing: Standing
    job: Job | None
    notes: list[str]
    is_as_planned: bool
    is_open: bool


@router.get("/projects/{slug}/evaluations")
def listing(request: Request, session: SessionDep, here: LeadDep, page: int = 1) -> Response:
    of_project = evaluations.listing(session, project=here.project, page=page, size=25)
    kept = standing.kept_prompts(session, project_id=here.project.id)
    return render(request, "loop/evaluations/list.html", ListPage(here.project, of_project, kept))


@router.get("/checkpoints/{checkpoint_id}/evaluate")
def plan(
    checkpoint_id: RowId,
    request: Request,
    engine: EngineDep,
    _: EngineerUploaderDep,
    form: Annotated[PlanForm, Query()],
) -> Response:
    page = _start_page(engine, checkpoint_id, form)
    return render(request, "loop/evaluations/start.html", page, block="told" if is_fragment(request) else None)


@router.post("/checkpoints/{checkpoint_id}/evaluations")
def start(
    checkpoint_id: RowId,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    here: EngineerUploaderDep,
    form: Annotated[PlanForm, Form()],
) -> Response:
    """Opens its own sessions: prompts are drawn, and models looked for, before the write transaction begins."""
    try:
        made = batches.start(
            engine,
            settings,
            checkpoint_id=checkpoint_id,
            by_id=here.user.id,
            opponent=form.opponent,
            wanted=form.wanted(),
            address=client_address(request),
        )
    except (Invalid, Conflict, NotFound) as refusal:
        page = _start_page(engine, checkpoint_id, form, refusal)
        return render(request, "loop/evaluations/start.html", page, status=refusal.status)
    return redirect(f"/projects/{made.project.slug}/evaluations/{made.number}/batch")


@router.get("/projects/{slug}/evaluations/{number}/batch")
def batch(request: Request, session: SessionDep, here: LeadDep, number: int) -> Response:
    evaluation = verdicts.by_number(session, project=here.project, number=number)
    told = standing.look(session, evaluation)
    page = BatchPage(
        project=here.project,
        evaluation=evaluation,
        standing=told,
        job=session.get(Job, evaluation.job_id) if evaluation.job_id else None,
        notes=standing.notes(evaluation, told),
        is_as_planned=evaluations.is_as_planned(session, evaluation),
        is_open=evaluation.state in ACTIVE,
    )
    return render(request, "loop/evaluations/batch.html", page)


@router.post("/projects/{slug}/evaluations/{number}/stop")
def stop(session: SessionDep, here: EngineerDep, number: int) -> Response:
    evaluation = verdicts.by_number(session, project=here.project, number=number)
    address = f"/projects/{here.project.slug}/evaluations/{number}/batch"
    try:
        batches.stop(session, evaluation=evaluation, by=here.user)
    except Conflict as refusal:
        return redirect(address, str(refusal), "bad")
    return redirect(address, "The evaluation was stopped. What was judged is kept.")


def _start_page(
    engine: Engine, checkpoint_id: int, form: PlanForm, refusal: Invalid | Conflict | NotFound | None = None
) -> StartPage:
    """The simulation runs between two looks, in no transaction."""
    with read_session(engine) as session:
        checkpoint = checkpoints.get(session, checkpoint_id)
        project = checkpoint.run.job.project
        others = checkpoints.listing(session, project=project, size=50).items
        kept = standing.kept_prompts(session, project_id=project.id)
    if not form.prompts:
        form.prompts = (Split.KEPT if kept else Split.EVAL).value
    errors = {str(refusal.details.get("field", "")): f"{refusal.what} {refusal.next_step}"} if refusal else {}
    prompts, told, left_out = 0, "", list[str]()
    try:
        wanted = form.wanted()
        with read_session(engine) as session:
            drawn = batches.draw(session, checkpoint_id=checkpoint_id, opponent=form.opponent, wanted=wanted, seed=1)
        prompts = len(drawn.chosen.prompts)
        left_out = batches.why_not(drawn.chosen)
        told = (
            promises.promise(wanted.plan(prompts)).sentence
            if prompts
            else str(batches.nothing_to_ask(drawn.chosen, wanted))
        )
    except (Invalid, NotFound) as problem:
        errors.setdefault(str(problem.details.get("field", "")), f"{problem.what} {problem.next_step}")
    base, parent_id = f"the base model {checkpoint.run.base_model}", checkpoint.run.parent_id
    opponents = [("parent", f"its parent, {f'checkpoint {parent_id}' if parent_id else base}")]
    opponents += [("base", base)] if parent_id else []
    opponents += [
        (str(row.id), f"checkpoint {row.id} of run {row.job_id}")
        for row in others
        if row.id not in (checkpoint_id, parent_id)
    ]
    return StartPage(project, checkpoint, form, opponents, prompts, told, left_out, kept, errors)


@router.post("/projects/{slug}/kept-prompts")
def keep(engine: EngineDep, here: EngineerUploaderDep, request: Request, file: UploadFile) -> Response:
    """Prompts that only evaluations ask. The file was read before any session begins."""
    address = f"/projects/{here.project.slug}/evaluations"
    try:
        given = keeping.read(file.file.read(keeping.LARGEST_FILE + 1))
        told = keeping.keep(
            engine, project_id=here.project.id, given=given, by_id=here.user.id, address=client_address(request)
        )
    except Invalid as refusal:
        return redirect(address, str(refusal), "bad")
    return redirect(address, told.sentence, "good")
