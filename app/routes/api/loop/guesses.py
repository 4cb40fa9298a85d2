"""Guesses after a batch, over the API."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.routes.api.collecting.projects import Slug
from app.services.loop import guesses
from app.services.loop.guesses import Guessed
from app.web.deps import ApiMemberDep, SessionDep
from app.web.problems import problems

router = APIRouter(tags=["evaluations"])


class RiddleOut(BaseModel):
    """A pair of a batch that has ended, as you saw it when you judged it."""

    pair_id: int
    prompt: list[dict[str, Any]]
    left: str
    right: str
    number: int = Field(description="Your how many-th guess on this batch it is.")
    of: int


class GuessIn(BaseModel):
    pair_id: int = Field(ge=1, le=2**31 - 1)
    side: Guessed = Field(description="The side of the answer that you take for the new model's.")


@router.get(
    "/projects/{slug}/guesses/next",
    response_model=RiddleOut,
    responses={204: {"description": "There is nothing for you to guess on."}, **problems(404)},
)
def following(slug: Slug, session: SessionDep, here: ApiMemberDep) -> Any:
    """The next pair to guess on: one that you judged with a winner, of a batch that has ended. Nobody says whether you were right."""
    riddle = guesses.following(session, project=here.project, user=here.user)
    return RiddleOut.model_validate(riddle, from_attributes=True) if riddle else Response(status_code=204)


@router.post("/projects/{slug}/guesses", status_code=204, responses=problems(404, 409))
def record(slug: Slug, body: GuessIn, session: SessionDep, here: ApiMemberDep) -> None:
    """Keep a guess. The first one on a pair counts."""
    guesses.record(session, project=here.project, user=here.user, pair_id=body.pair_id, side=body.side)
