"""Trials of arms: what one would cost, start one, how far its runs are, and what the arms bought."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db import read_session, settings_of, write_session
from app.errors import Invalid, PrefloopError
from app.models import Arm, ArmTrial, ArmTrialRun, Job, JobState, Project, TrainingRun, User
from app.paging import Page
from app.services.loop.generating.arms import WORDS
from app.services.loop.labels.cost import Cost
from app.services.loop.trials import trials, words
from app.services.loop.trials.plan import FEWEST_PAIRS, Plan
from app.services.training import runs
from app.web.deps import EngineDep, EngineerDep, EngineerUploaderDep, SessionDep
from app.web.templating import is_fragment, redirect, render

router = APIRouter()
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
COMPARED = tuple(arm for arm in Arm if arm is not Arm.RANDOM)


@dataclass(frozen=True, slots=True)
class Form:
    """Text as it was sent."""

    run: str = ""
    arms: list[str] = field(default_factory=list)
    seeds: str = "3"

    def plan(self) -> Plan:
        """Raises Invalid."""
        seeds = self.seeds.strip()
        if not (seeds.isascii() and seeds.isdecimal() and len(seeds) < 4):
            raise Invalid(f"“{seeds[:20]}” isn't a number of seeds.", "Write digits.", field="seeds")
        return Plan.of(self.arms, int(seeds))

    def of_run(self, session: Session, project: Project) -> TrainingRun:
        """Raises NotFound, also for a run of another project."""
        number = int(self.run) if self.run.isascii() and self.run.isdecimal() and len(self.run) < 10 else 0
        run = runs.get(session, number)
        if run.job.project_id != project.id:
            raise runs.missing(number)
        return run


@dataclass(frozen=True, slots=True)
class TrialsPage:
    """`runs`: those that a trial may rest on."""

    project: Project
    page: Page[ArmTrial]
    current: ArmTrial | None
    runs: list[TrainingRun]
    form: Form
    cost: Cost | None
    problem: str
    fewest: int = FEWEST_PAIRS
    arms: tuple[Arm, ...] = COMPARED
    words: dict[Arm, str] = field(default_factory=lambda: WORDS)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A run of a trial as its line shows it."""

    run: ArmTrialRun
    job: Job


@dataclass(frozen=True, slots=True)
class TrialPage:
    """`parent_id`: the checkpoint that its runs start from. `arms`: (title, its figures, what it bought, what that means), of a finished
    trial."""

    project: Project
    trial: ArmTrial
    plan: Plan
    parent_id: int | None
    rows: list[Row]
    done: int
    failed: int
    moving: bool
    arms: list[tuple[str, dict[str, Any], str, str]]
    words: dict[Arm, str] = field(default_factory=lambda: WORDS)


async def _form(request: Request) -> Form:
    sent = await request.form() if request.method == "POST" else request.query_params
    arms = [one for one in sent.getlist("arm") if isinstance(one, str)]
    return Form(str(sent.get("run") or ""), arms, str(sent.get("seeds") or "3"))


FormDep = Annotated[Form, Depends(_form)]


@router.get("/projects/{slug}/trials")
def listing(request: Request, session: SessionDep, here: EngineerDep, form: FormDep, page: int = 1) -> Response:
    return render(request, "loop/trials/list.html", _page(session, here.project, form, page=page))


@router.post("/projects/{slug}/trials/cost")
def show_cost(request: Request, form: FormDep, here: EngineerUploaderDep, engine: EngineDep) -> Response:
    """What the form as it stands would take; nothing is stored."""
    with read_session(engine) as session:
        return render(request, "loop/trials/list.html", _page(session, here.project, form), block="cost")


@router.post("/projects/{slug}/trials")
def start(request: Request, form: FormDep, here: EngineerUploaderDep, engine: EngineDep) -> Response:
    try:
        plan = form.plan()
        with read_session(engine) as session:
            run = form.of_run(session, here.project)
            parent = trials.require(session, run=run, plan=plan)
        trials.require_start(settings_of(engine), run, parent)
        with write_session(engine) as session:
            row, _ = trials.begin(
                session,
                project=session.get_one(Project, here.project.id),
                run=runs.get(session, run.job_id),
                plan=plan,
                by=session.get_one(User, here.user.id),
            )
            number = row.number
        return redirect(f"/projects/{here.project.slug}/trials/{number}")
    except PrefloopError as error:
        problem, status = str(error), error.status
    with read_session(engine) as session:
        page = _page(session, here.project, form, error=problem)
        return render(request, "loop/trials/list.html", page, status=status)


@router.get("/projects/{slug}/trials/{number}")
def show(number: Number, request: Request, session: SessionDep, here: EngineerDep) -> Response:
    row = trials.numbered(session, project=here.project, number=number)
    made = [Row(run, job) for run, job in trials.runs_of(session, trial_id=row.id)]
    result = row.result or {"arms": {}}
    page = TrialPage(
        project=here.project,
        trial=row,
        plan=trials.plan_of(row),
        parent_id=runs.get(session, row.of_job_id).parent_id,
        rows=made,
        done=sum(one.job.state is JobState.SUCCEEDED for one in made),
        failed=sum(one.job.state in trials.ENDED_BADLY for one in made),
        moving=row.state in trials.ACTIVE,
        arms=[
            (WORDS[Arm(name)].capitalize(), one, words.bought(Arm(name), one), words.advice(Arm(name), one))
            for name, one in result["arms"].items()
        ],
    )
    return render(request, "loop/trials/show.html", page, block="trial" if is_fragment(request) else None)


@router.post("/projects/{slug}/trials/{number}/stop")
def stop(number: Number, engine: EngineDep, here: EngineerDep) -> Response:
    with write_session(engine) as session:
        row = trials.numbered(session, project=here.project, number=number)
        trials.stop(session, row=row, by=session.get_one(User, here.user.id))
    return redirect(f"/projects/{here.project.slug}/trials/{number}")


@router.post("/projects/{slug}/trials/{number}/retry")
def retry(number: Number, engine: EngineDep, here: EngineerDep) -> Response:
    with write_session(engine) as session:
        row = trials.numbered(session, project=here.project, number=number)
        trials.retry(session, row=row, by=session.get_one(User, here.user.id))
    return redirect(f"/projects/{here.project.slug}/trials/{number}")


def _page(session: Session, project: Project, form: Form, *, page: int = 1, error: str = "") -> TrialsPage:
    possible = list(trials.possible_runs(session, project=project))
    if not form.run and possible:
        there = possible[0].snapshot.statistics.arms
        arms = [arm.value for arm in COMPARED if there.get(arm.value, 0) >= FEWEST_PAIRS]
        form = Form(str(possible[0].job_id), arms, form.seeds)
    told, problem = None, ""
    try:
        told = trials.cost(session, run=form.of_run(session, project), plan=form.plan()) if possible else None
    except PrefloopError as refused:
        problem = str(refused)
    return TrialsPage(
        project=project,
        page=trials.listing(session, project=project, page=page, size=25),
        current=trials.current(session, project=project),
        runs=possible,
        form=form,
        cost=told,
        problem=problem,
        error=error,
    )
