"""After a batch: whoever judged it guesses which answer of a pair was new. Nobody is told whether they were right."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.errors import Conflict, NotFound
from app.models import (
    Choice,
    Comparison,
    Evaluation,
    EvaluationGuess,
    EvaluationPair,
    EvaluationState,
    Judgment,
    Project,
    Prompt,
    Response,
    Side,
    User,
)
from app.services.collecting import slots

MOST = 20  # of a person and an evaluation: what they know they show in the first
ENDED = (EvaluationState.DECIDED, EvaluationState.STOPPED)
Guessed = Literal["left", "right"]


@dataclass(frozen=True)
class Riddle:
    """A pair as its judge saw it, the answers on the sides on which they were. `number`: this person's how many-th of `of`."""

    pair_id: int
    prompt: list[Any]
    left: str
    right: str
    number: int
    of: int


def following(session: Session, *, project: Project, user: User) -> Riddle | None:
    """The next pair to guess on; None where there is none. A person's judgments with a winner are its candidates, of batches that
    have ended alone."""
    newest_first = _waiting(project, user).order_by(Evaluation.id.desc(), EvaluationPair.place)
    row = session.execute(newest_first.limit(1)).first()
    if row is None:
        return None
    pair, judgment, comparison, already = row
    total = session.scalar(
        select(func.count()).select_from(_judged(user.id).where(Evaluation.id == pair.evaluation_id).subquery())
    )
    prompt = session.scalars(select(Prompt.messages).where(Prompt.id == pair.prompt_id)).one()
    left, right = _sides(judgment, comparison)
    texts = dict(
        session.execute(select(Response.id, Response.text).where(Response.id.in_((left, right)))).tuples().all()
    )
    return Riddle(pair.id, prompt, texts[left], texts[right], already + 1, min(MOST, total or 0))


def is_waiting(session: Session, *, project: Project, user: User) -> bool:
    """Whether there is a pair for this person to guess on."""
    return session.execute(_waiting(project, user).limit(1)).first() is not None


def _waiting(project: Project, user: User) -> Select[EvaluationPair, Judgment, Comparison, int]:
    """(pair, judgment, comparison, guesses already made on its batch) of the pairs that a person may guess on."""
    mine = aliased(EvaluationGuess)
    guessed = select(mine.evaluation_id, func.count().label("made")).where(mine.user_id == user.id)
    made = guessed.group_by(mine.evaluation_id).subquery()
    return (
        _judged(user.id)
        .add_columns(func.coalesce(made.c.made, 0))
        .outerjoin(made, made.c.evaluation_id == Evaluation.id)
        .where(
            Evaluation.project_id == project.id,
            func.coalesce(made.c.made, 0) < MOST,
            ~select(mine.id).where(mine.pair_id == EvaluationPair.id, mine.user_id == user.id).exists(),
        )
    )


def record(session: Session, *, project: Project, user: User, pair_id: int, side: Guessed) -> EvaluationGuess:
    """Keeps a guess. The same again changes nothing; the first one counts.

    Raises NotFound for a pair that isn't this person's to guess on, Conflict for one guess too many.
    """
    slots.one_at_a_time(session, user)  # or two at once would both count one less than the limit
    row = session.execute(
        _judged(user.id).where(Evaluation.project_id == project.id, EvaluationPair.id == pair_id)
    ).first()
    if row is None:
        raise NotFound(f"There is no pair {pair_id} for you to guess on.", "Ask for the next one.")
    pair, judgment, comparison = row
    of_pair = select(EvaluationGuess).where(EvaluationGuess.pair_id == pair.id, EvaluationGuess.user_id == user.id)
    if (there := session.scalar(of_pair)) is not None:
        return there
    made = select(func.count(EvaluationGuess.id)).where(
        EvaluationGuess.evaluation_id == pair.evaluation_id, EvaluationGuess.user_id == user.id
    )
    if (session.scalar(made) or 0) >= MOST:
        raise Conflict(f"You made {MOST} guesses on this batch.", "That is enough: thank you.")
    left, right = _sides(judgment, comparison)
    guess = EvaluationGuess(
        evaluation_id=pair.evaluation_id,
        pair_id=pair.id,
        user_id=user.id,
        response_id=left if side == "left" else right,
    )
    try:
        with session.begin_nested():
            session.add(guess)
    except IntegrityError:  # a double click
        return session.scalars(of_pair).one()
    return guess


def _judged(user_id: int) -> Select[EvaluationPair, Judgment, Comparison]:
    """(pair, judgment, comparison) of what a person judged with a winner, in batches that have ended."""
    return (
        select(EvaluationPair, Judgment, Comparison)
        .join(Evaluation, Evaluation.id == EvaluationPair.evaluation_id)
        .join(Comparison, Comparison.id == EvaluationPair.comparison_id)
        .join(Judgment, Judgment.comparison_id == Comparison.id)
        .where(
            Evaluation.state.in_(ENDED),
            EvaluationPair.left_out == "",
            Judgment.user_id == user_id,
            ~Judgment.superseded,
            _has_winner(),
        )
    )


def _has_winner() -> ColumnElement[bool]:
    return Judgment.choice.in_((Choice.FIRST, Choice.SECOND))


def _sides(judgment: Judgment, comparison: Comparison) -> tuple[int, int]:
    """(left, right) answers as they were shown."""
    first, second = comparison.first_response_id, comparison.second_response_id
    return (second, first) if judgment.first_side is Side.RIGHT else (first, second)
