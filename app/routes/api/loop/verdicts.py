"""What an evaluation came to, over the API."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.db import read_session
from app.models import EvaluationState
from app.services.loop import verdicts
from app.services.loop.evaluating import since
from app.services.loop.evaluating.since import Learnt
from app.services.loop.verdict import words
from app.services.loop.verdict.shape import Kept, Verdict
from app.web.deps import ApiLeadUploaderDep, EngineDep, RowId
from app.web.problems import problems

router = APIRouter(tags=["evaluations"])


class VoidFor(BaseModel):
    checkpoint_id: int
    prompts: int = Field(description="Of the evaluation's prompts: those of which it was trained on a near duplicate.")
    is_side: bool = Field(description="It is one of the two that were compared: nothing of the verdict holds any more.")


class VerdictOut(BaseModel):
    """An evaluation and its verdict, the same that its page shows. Win rates are shares from 0 to 1."""

    evaluation_id: int
    project: str
    number: int = Field(description="Counted from 1 in its project.")
    state: EvaluationState
    reason: str = Field(description="Why it is void or was stopped.")
    checkpoint_id: int
    opponent_checkpoint_id: int | None
    opponent_model: str = Field(description="The base model, where the opponent isn't a checkpoint.")
    plan_sha256: str
    headline: str = Field(description="The word of the page.")
    summary: str = Field(description="The first line of the page.")
    notes: list[str] = Field(description="The lines below it.")
    verdict: Verdict | None = Field(description="Null until something counts, and of an evaluation that is void.")
    people: dict[int, str] = Field(description="Names of the people in the verdict, by id.")
    ended_at: datetime | None
    void_for: list[VoidFor] = Field(
        description="Checkpoints of which it says nothing any more: they were trained on its prompts' near duplicates."
    )

    @classmethod
    def of(cls, told: Kept, learnt: Sequence[Learnt]) -> "VerdictOut":
        row = told.evaluation
        verdict = None if row.state is EvaluationState.VOID else told.verdict
        return cls(
            evaluation_id=row.id, project=row.project.slug, number=row.number, state=row.state, reason=row.reason,
            checkpoint_id=row.checkpoint_id, opponent_checkpoint_id=row.opponent_id, opponent_model=row.opponent_model,
            plan_sha256=row.plan_sha256, headline=words.headline(row.state, verdict), summary=words.summary(row, verdict),
            notes=words.lines(verdict) if verdict and verdict.prompts else [], verdict=verdict, people=told.names,
            ended_at=row.ended_at,
            void_for=[
                VoidFor(checkpoint_id=one.checkpoint_id, prompts=one.prompts, is_side=one.is_side) for one in learnt
            ],
        )  # fmt: skip


@router.get("/evaluations/{evaluation_id}/verdict", responses=problems(404))
def show(evaluation_id: RowId, engine: EngineDep, _: ApiLeadUploaderDep) -> VerdictOut:
    """The verdict on what is judged by now; of a running batch it may be half a minute old."""
    told = verdicts.current(engine, evaluation_id)
    with read_session(engine) as session:
        return VerdictOut.of(told, since.learnt(session, told.evaluation))
