"""The pairs of a batch that has ended, side by side: what it lost, what it won. Nobody sees them while people judge."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from app import paging
from app.models import Evaluation, EvaluationPair, Prompt, Response
from app.paging import Page
from app.services.loop.verdict import evidence


class Shown(StrEnum):
    LOST = "lost"
    WON = "won"
    TIED = "tied"
    SAME = "same"
    TELLING = "telling"


@dataclass(frozen=True)
class Outcome:
    """One prompt with both answers and how the new one did."""

    place: int
    prompt: list[Any]
    new: str
    old: str
    value: float | None
    same: bool
    tells: list[str]


def listing(session: Session, evaluation: Evaluation, *, shown: Shown, page: int = 1, size: int = 5) -> Page[Outcome]:
    """A page of them in the drawn order; an empty one while the batch runs."""
    if evidence.is_open(evaluation):
        return Page([], 1, size, 0)
    new, old = aliased(Response), aliased(Response)
    ids = (
        select(EvaluationPair.id)
        .where(EvaluationPair.evaluation_id == evaluation.id, EvaluationPair.left_out == "", _condition(shown))
        .order_by(EvaluationPair.place)
    )
    if shown is Shown.TELLING:  # JSON is compared here, for the databases do it in ways of their own
        telling = select(EvaluationPair.id, EvaluationPair.tells).where(
            EvaluationPair.evaluation_id == evaluation.id, EvaluationPair.left_out == "", ~EvaluationPair.same
        )
        rows = session.execute(telling.order_by(EvaluationPair.place))
        matching = [pair_id for pair_id, tells in rows if evidence.kinds_of_tells(tells)]
        ids = select(EvaluationPair.id).where(EvaluationPair.id.in_(matching)).order_by(EvaluationPair.place)
    numbers: Page[int] = paging.fetch(session, ids, page=page, size=size)
    query = (
        select(EvaluationPair, Prompt.messages, new.text, old.text)
        .join(Prompt, Prompt.id == EvaluationPair.prompt_id)
        .join(new, new.id == EvaluationPair.new_response_id)
        .join(old, old.id == EvaluationPair.old_response_id)
        .where(EvaluationPair.id.in_(numbers.items))
        .order_by(EvaluationPair.place)
    )
    outcomes = [
        Outcome(
            pair.place, messages, new_text, old_text, pair.value, pair.same, sorted(evidence.kinds_of_tells(pair.tells))
        )
        for pair, messages, new_text, old_text in session.execute(query)
    ]
    return Page(outcomes, numbers.number, numbers.size, numbers.total)


def _condition(shown: Shown) -> ColumnElement[bool]:
    return {
        Shown.LOST: EvaluationPair.value < 0.5,
        Shown.WON: EvaluationPair.value > 0.5,
        Shown.TIED: (EvaluationPair.value == 0.5) & ~EvaluationPair.same,
        Shown.SAME: EvaluationPair.same.is_(True),
        Shown.TELLING: ~EvaluationPair.same,
    }[shown]
