"""Trials of arms over the API: what one would cost, start one, and what the arms' judgments bought."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import read_session, settings_of, write_session
from app.models import Arm, ArmTrial, JobState, Project, TrainingRun, TrialState
from app.routes.api.collecting.projects import Slug
from app.services.loop.trials import trials, words
from app.services.loop.trials.plan import MOST_SEEDS, Plan
from app.services.training import runs
from app.stats.loop.arms import FEWEST_SEEDS
from app.web.deps import ApiEngineerDep, ApiEngineerUploaderDep, EngineDep, SessionDep
from app.web.problems import problems

router = APIRouter(tags=["arms"])
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


class NewTrial(BaseModel):
    """Which arms are compared with the random one, on the snapshot and with the settings of which run."""

    model_config = ConfigDict(extra="forbid")

    run: int = Field(ge=1, le=2**31 - 1, description="A run of the project that succeeded.")
    arms: list[Arm] = Field(max_length=3, examples=[["margin", "diversity"]])
    seeds: int = Field(FEWEST_SEEDS, ge=FEWEST_SEEDS, le=MOST_SEEDS)

    def plan(self) -> Plan:
        """Raises Invalid."""
        return Plan.of([arm.value for arm in self.arms], self.seeds)


class TrialCostOut(BaseModel):
    """Runs in all, the pairs of each, and the seconds of one worker; null where no run like them has finished here."""

    runs: int
    pairs: int
    seconds: float | None
    sentence: str


class TrialRunOut(BaseModel):
    """A run that was trained without `pairs` pairs of the arm `left_out`, which have so many judgments."""

    job_id: int
    seed: int
    left_out: Arm
    pairs: int
    judgments: int
    state: JobState


class TrialOut(BaseModel):
    """A trial. `result` has, of each arm, what `per` of its judgments bought, 100 or as many as
    there were: accuracy in points, which decides, and margin in nats."""

    number: int
    project: str
    run: int
    arms: list[Arm]
    seeds: int
    state: TrialState
    problem: str
    runs: list[TrialRunOut]
    result: dict[str, Any] | None
    sentences: list[str]
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, session: Any, row: ArmTrial) -> "TrialOut":
        made = [
            TrialRunOut(
                job_id=run.job_id, seed=run.seed, left_out=run.left_out, pairs=run.pairs, judgments=run.judgments, state=job.state
            )
            for run, job in trials.runs_of(session, trial_id=row.id)
        ]  # fmt: skip
        plan = trials.plan_of(row)
        return cls(
            number=row.number, project=row.project.slug, run=row.of_job_id, arms=list(plan.arms), seeds=plan.seeds, state=row.state,
            problem=row.problem, runs=made, result=row.result, sentences=words.sentences(row), created_at=row.created_at,
            ended_at=row.ended_at,
        )  # fmt: skip


class TrialsOut(BaseModel):
    items: list[TrialOut]
    total: int


@router.post("/projects/{slug}/trials/estimate", responses=problems(404, 409))
def estimate(slug: Slug, body: NewTrial, here: ApiEngineerUploaderDep, engine: EngineDep) -> TrialCostOut:
    """What a trial would take; nothing is started or stored."""
    with read_session(engine) as session:
        told = trials.cost(session, run=_run(session, here.project, body.run), plan=body.plan())
    return TrialCostOut(runs=told.runs, pairs=told.pairs, seconds=told.seconds, sentence=told.sentence)


@router.post(
    "/projects/{slug}/trials",
    status_code=201,
    responses=problems(404, 409) | {200: {"model": TrialOut, "description": "It is under way already."}},
)
def start(slug: Slug, body: NewTrial, response: Response, here: ApiEngineerUploaderDep, engine: EngineDep) -> TrialOut:
    """Start a trial: runs of equal size with and without each arm's pairs. One at a time in a project."""
    plan = body.plan()
    with read_session(engine) as session:
        run = _run(session, here.project, body.run)
        parent = trials.require(session, run=run, plan=plan)
    trials.require_start(settings_of(engine), run, parent)
    with write_session(engine) as session:
        inside = here.within(session)
        row, is_new = trials.begin(
            session, project=inside.project, run=runs.get(session, run.job_id), plan=plan, by=inside.user
        )
        response.status_code = 201 if is_new else 200
        return TrialOut.of(session, row)


@router.get("/projects/{slug}/trials", responses=problems(404))
def listing(
    slug: Slug, session: SessionDep, here: ApiEngineerDep, page: Annotated[int, Query(ge=1, le=1_000_000)] = 1
) -> TrialsOut:
    """A project's trials, the newest first, twenty a page."""
    rows = trials.listing(session, project=here.project, page=page, size=20)
    return TrialsOut(items=[TrialOut.of(session, row) for row in rows.items], total=rows.total)


@router.get("/projects/{slug}/trials/{number}", responses=problems(404))
def show(slug: Slug, number: Number, session: SessionDep, here: ApiEngineerDep) -> TrialOut:
    """A trial: how far its runs are, and what the arms' judgments bought."""
    return TrialOut.of(session, trials.numbered(session, project=here.project, number=number))


@router.post("/projects/{slug}/trials/{number}/stop", responses=problems(404, 409))
def stop(slug: Slug, number: Number, engine: EngineDep, here: ApiEngineerDep) -> TrialOut:
    """End a trial; its runs that haven't ended are cancelled."""
    with write_session(engine) as session:
        inside = here.within(session)
        row = trials.numbered(session, project=inside.project, number=number)
        return TrialOut.of(session, trials.stop(session, row=row, by=inside.user))


@router.post("/projects/{slug}/trials/{number}/retry", responses=problems(404, 409))
def retry(slug: Slug, number: Number, engine: EngineDep, here: ApiEngineerDep) -> TrialOut:
    """Queue the runs that failed or were cancelled again."""
    with write_session(engine) as session:
        inside = here.within(session)
        row = trials.numbered(session, project=inside.project, number=number)
        return TrialOut.of(session, trials.retry(session, row=row, by=inside.user))


def _run(session: Any, project: Project, job_id: int) -> TrainingRun:
    run = runs.get(session, job_id)
    if run.job.project_id != project.id:
        raise runs.missing(job_id)
    return run
