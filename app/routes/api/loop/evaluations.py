"""Blind batches over the API: start one, look how far it is, stop it, and keep prompts for it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from app.models import Evaluation, EvaluationState, Split
from app.routes.api.collecting.projects import Message, Slug
from app.services.loop import batches, evaluations
from app.services.loop.evaluating import keeping, standing
from app.services.loop.evaluating.standing import Standing
from app.services.loop.evaluating.wanted import MOST_PROMPTS, BothBad, Skips, Wanted
from app.services.loop.generating.wanted import MOST_PROMPTS as MOST_GIVEN
from app.stats.loop.decision import Goal
from app.web.deps import (
    ApiEngineerDep,
    ApiEngineerUploaderDep,
    ApiLeadDep,
    EngineDep,
    RowId,
    SessionDep,
    SettingsDep,
    client_address,
)
from app.web.problems import problems

router = APIRouter(tags=["evaluations"])


class NewEvaluation(BaseModel):
    """A plan. All of it, with the prompts in their drawn order, is fixed and hashed when it starts."""

    opponent: str = Field("parent", max_length=12, description="parent, base, or the id of a checkpoint.")
    goal: Goal = Goal.SUPERIORITY
    margin: float = Field(0.05, ge=0.005, le=0.3, description="Of non-inferiority, as a difference of win rates.")
    maximum: int = Field(400, ge=1, le=MOST_PROMPTS, description="Prompts at most; it stops earlier where it can.")
    votes: int = Field(1, ge=1, le=5, description="Judgments of each prompt.")
    both_bad: BothBad = BothBad.TIE
    skips: Skips = Skips.ASK_OTHERS
    share: int = Field(30, ge=1, le=100, description="Percentage of the pairs that people get while it asks.")
    prompts: Literal["eval", "kept"] = Field("eval", description="Of the eval split, or kept for evaluation.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0.01, le=1)
    max_new_tokens: int | None = Field(None, ge=1, le=4096)

    def wanted(self) -> Wanted:
        sampling = {name: getattr(self, name) for name in ("temperature", "top_p", "max_new_tokens")}
        return Wanted(
            goal=self.goal, margin=self.margin, maximum=self.maximum, votes=self.votes, both_bad=self.both_bad,
            skips=self.skips, share=self.share, prompts=Split(self.prompts),
            sampling={name: value for name, value in sampling.items() if value is not None},
        )  # fmt: skip


class StandingOut(BaseModel):
    """What became of the prompts so far."""

    prompts: int
    judged: int = Field(description="Prompts that have all their judgments.")
    waiting: int
    same: int = Field(description="Both sides gave the same answer: ties that nobody is asked about.")
    left_out: dict[str, int]
    unaskable: int = Field(description="Of those that wait, the ones that everybody knows who may judge.")
    can_be_asked: dict[int, int] = Field(description="Prompts that are left for each person, by their id.")
    notes: list[str]

    @classmethod
    def of(cls, row: Evaluation, told: Standing) -> "StandingOut":
        return cls(
            prompts=told.prompts, judged=told.judged, waiting=told.waiting, same=told.same, left_out=dict(told.left_out),
            unaskable=told.unaskable, can_be_asked={one.user_id: one.can_be_asked for one in told.people},
            notes=standing.notes(row, told),
        )  # fmt: skip


class EvaluationOut(BaseModel):
    id: int
    project: str
    number: int = Field(description="Counted from 1 in its project.")
    state: EvaluationState
    reason: str = Field(description="Why it was stopped or is void.")
    stop: str = Field(description="Why it was decided: goal, worse or maximum.")
    word: str
    checkpoint_id: int
    opponent_checkpoint_id: int | None
    opponent_model: str
    goal: Goal
    margin: float
    maximum: int
    votes: int
    both_bad: BothBad
    skips: Skips
    share: int
    prompts: dict[str, Any]
    sampling: dict[str, Any]
    plan_sha256: str = Field(description="Of the plan and its prompts in their order, from before the first judgment.")
    job_id: int | None = Field(description="The job that makes both sides' answers.")
    created_at: datetime
    asking_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, row: Evaluation) -> "EvaluationOut":
        same = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name) and name != "project"}
        return cls(**same, project=row.project.slug, opponent_checkpoint_id=row.opponent_id)


class EvaluationStanding(EvaluationOut):
    standing: StandingOut


class EvaluationsOut(BaseModel):
    items: list[EvaluationOut]
    page: int
    pages: int
    total: int


class KeptPrompts(BaseModel):
    prompts: list[str | list[Message]] = Field(
        min_length=1, max_length=MOST_GIVEN, description="Each a text or a list of messages."
    )


class KeptOut(BaseModel):
    kept: int = Field(description="Of those given, kept for evaluation now.")
    new: int
    others: int = Field(description="The project asks or trains on these, or on near duplicates.")


@router.post("/checkpoints/{checkpoint_id}/evaluations", status_code=201, responses=problems(404, 409))
def start(
    checkpoint_id: RowId,
    body: NewEvaluation,
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    here: ApiEngineerUploaderDep,
) -> EvaluationOut:
    """Compare a checkpoint blind with another. Opens its own sessions: prompts are drawn before the write transaction."""
    made = batches.start(
        engine, settings, checkpoint_id=checkpoint_id, by_id=here.user.id, opponent=body.opponent, wanted=body.wanted(),
        address=client_address(request),
    )  # fmt: skip
    return EvaluationOut.of(made)


@router.get("/projects/{slug}/evaluations", responses=problems(404))
def listing(
    slug: Slug,
    session: SessionDep,
    here: ApiLeadDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> EvaluationsOut:
    """A project's evaluations, newest first."""
    rows = evaluations.listing(session, project=here.project, page=page, size=size)
    items = [EvaluationOut.of(row) for row in rows.items]
    return EvaluationsOut(items=items, page=rows.number, pages=rows.pages, total=rows.total)


@router.get("/evaluations/{evaluation_id}", responses=problems(404))
def show(evaluation_id: RowId, session: SessionDep, _: ApiLeadDep) -> EvaluationStanding:
    """One evaluation: its plan, and how far it is. Its verdict is at `/evaluations/{id}/verdict`."""
    row = evaluations.get(session, evaluation_id)
    told = StandingOut.of(row, standing.look(session, row))
    return EvaluationStanding(**EvaluationOut.of(row).model_dump(), standing=told)


@router.post("/evaluations/{evaluation_id}/stop", responses=problems(404, 409))
def stop(evaluation_id: RowId, session: SessionDep, here: ApiEngineerDep) -> EvaluationOut:
    """Ask nobody any more. What was judged is kept; a job that still makes its answers is cancelled."""
    return EvaluationOut.of(batches.stop(session, evaluation=evaluations.get(session, evaluation_id), by=here.user))


@router.post("/projects/{slug}/kept-prompts", responses=problems(404))
def keep(slug: Slug, body: KeptPrompts, request: Request, engine: EngineDep, here: ApiEngineerUploaderDep) -> KeptOut:
    """Keep prompts for evaluation: nobody else is asked about them, and no run learns from them."""
    given = [one if isinstance(one, str) else [message.model_dump() for message in one] for one in body.prompts]
    told = keeping.keep(
        engine, project_id=here.project.id, given=given, by_id=here.user.id, address=client_address(request)
    )
    return KeptOut(kept=told.kept, new=told.new, others=told.others)
