"""Rounds over the API: start the whole loop, look where it stands, stop it, let it go on."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import read_session, write_session
from app.models import Arm, Pairing, Round, RoundState, RoundStep
from app.routes.api.collecting.projects import Slug
from app.services.accounts.access import Caller
from app.services.loop.rounding import rounds, steps
from app.services.loop.rounding.plan import RoundPlan
from app.web.deps import ApiEngineerDep, ApiEngineerUploaderDep, EngineDep, SessionDep, StorageDep
from app.web.problems import problems

router = APIRouter(tags=["rounds"])
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="The round's number in its project.")]


class NewRound(BaseModel):
    model_config = ConfigDict(extra="forbid")

    base_model: str = Field(max_length=255, description="What the run starts from.")
    sources: list[Annotated[str, Field(max_length=300)]] = Field(
        [],
        max_length=8,
        description="Who gives new answers: `base:NAME`, `checkpoint:ID`, `endpoint:NAME`. None: judge what is there.",
    )
    samples: int = Field(2, ge=1, le=16, description="Answers of each source to a prompt.")
    sampling: dict[str, Any] = Field({}, description="`temperature`, `top_p`, `max_new_tokens`, `seed`.")
    pairing: Pairing = Pairing.ROUND_ROBIN
    prompts_of: Literal["project", "train"] = "train"
    limit: int = Field(200, ge=1, le=10_000, description="Prompts that are answered.")
    arms: dict[Arm, float] = Field(
        {},
        description="Shares of those prompts by arm, which add up to 1; random has 0.2 or more. Left out: random alone.",
    )
    keep: float | None = Field(
        None, description="Share of the candidate pairs that is asked. Left out: all, or half where arms are to choose."
    )
    judgments: int | None = Field(
        None, ge=1, le=1_000_000, description="How many are waited for; null: until every pair is judged."
    )
    preset: str = Field("", max_length=24)
    config: dict[str, Any] = Field({}, description="Settings of the run, as in POST jobs.")
    from_checkpoint: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The run starts from it, as its reference too; null: from the base model."
    )
    new_pairs_only: bool = Field(False, description="With `from_checkpoint`: train only on pairs that it hasn't seen.")
    opponent: str = Field(
        "parent", max_length=24, description="`parent`, `base`, a checkpoint's id; empty: no evaluation."
    )
    evaluation: dict[str, Any] = Field(
        {}, description="Settings of the evaluation: `goal`, `margin`, `maximum`, `votes`, …"
    )


class RoundOut(BaseModel):
    """A round and where it stands. What it made so far is named by id, null until it is there."""

    id: int
    project: str
    number: int
    state: RoundState
    step: RoundStep
    waits_for: int = Field(
        description="Judgments, or pairs to be judged, that are still waited for at the step `judgments`."
    )
    problem: str
    plan: dict[str, Any]
    generation_job_id: int | None
    snapshot_id: int | None
    training_job_id: int | None
    checkpoint_id: int | None
    evaluation_id: int | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, session: Any, row: Round) -> "RoundOut":
        waits = row.state is RoundState.RUNNING and row.step is RoundStep.JUDGMENTS
        return cls(
            id=row.id, project=row.project.slug, number=row.number, state=row.state, step=row.step, problem=row.problem,
            waits_for=steps.waits_for(session, row) if waits else 0, plan=row.plan,
            generation_job_id=row.generation_job_id, snapshot_id=row.snapshot_id, training_job_id=row.training_job_id,
            checkpoint_id=row.checkpoint_id, evaluation_id=row.evaluation_id, created_at=row.created_at,
            ended_at=row.ended_at,
        )  # fmt: skip


class RoundsOut(BaseModel):
    items: list[RoundOut]
    total: int


@router.post(
    "/projects/{slug}/rounds",
    status_code=201,
    responses=problems(404, 409) | {200: {"model": RoundOut, "description": "It runs already."}},
)
def start(
    slug: Slug,
    body: NewRound,
    response: Response,
    engine: EngineDep,
    here: ApiEngineerUploaderDep,
    storage: StorageDep,
) -> RoundOut:
    """Start a round. The same wish again answers with the one that runs; another one while it runs is refused."""
    plan = RoundPlan.of(body.model_dump(mode="json"))
    steps.require(engine, plan, project=here.project, caller=Caller.of(here.user))
    with write_session(engine) as session:
        inside = here.within(session)
        row, is_new = rounds.start(session, project=inside.project, plan=plan, by=inside.user)
        round_id = row.id
    steps.advance(engine, storage, round_id)
    response.status_code = 201 if is_new else 200
    with read_session(engine) as session:
        return RoundOut.of(session, rounds.get(session, round_id))


@router.get("/projects/{slug}/rounds", responses=problems(404))
def listing(
    slug: Slug, session: SessionDep, here: ApiEngineerDep, page: Annotated[int, Field(ge=1, le=10**6)] = 1
) -> RoundsOut:
    """A project's rounds, the newest first, fifty a page."""
    rows = rounds.listing(session, project=here.project, page=page)
    return RoundsOut(items=[RoundOut.of(session, row) for row in rows.items], total=rows.total)


@router.get("/projects/{slug}/rounds/{number}", responses=problems(404))
def show(slug: Slug, number: Number, session: SessionDep, here: ApiEngineerDep) -> RoundOut:
    """A round and where it stands."""
    return RoundOut.of(session, rounds.numbered(session, project=here.project, number=number))


@router.post("/projects/{slug}/rounds/{number}/stop", responses=problems(404, 409))
def stop(slug: Slug, number: Number, engine: EngineDep, here: ApiEngineerDep) -> RoundOut:
    """End a round where it is: its job is cancelled, its evaluation stopped; what it made stays."""
    with write_session(engine) as session:
        inside = here.within(session)
        row = rounds.numbered(session, project=inside.project, number=number)
        return RoundOut.of(session, rounds.stop(session, row=row, by=inside.user))


@router.post("/projects/{slug}/rounds/{number}/retry", responses=problems(404, 409))
def retry(slug: Slug, number: Number, engine: EngineDep, here: ApiEngineerUploaderDep, storage: StorageDep) -> RoundOut:
    """Let a failed round go on at the step that failed."""
    with write_session(engine) as session:
        inside = here.within(session)
        row = rounds.numbered(session, project=inside.project, number=number)
        rounds.retry(session, row=row, by=inside.user)
    steps.advance(engine, storage, row.id)
    with read_session(engine) as session:
        return RoundOut.of(session, rounds.get(session, row.id))
