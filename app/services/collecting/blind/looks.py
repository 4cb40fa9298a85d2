"""What evaluations ask of a person, and what they may not be asked: looks alone, changes nothing.

Nobody is asked about a prompt that they know: one of which, or of whose near duplicates, they judged (or skipped) any pair, in
whatever split, gold question or evaluation. Who knows a prompt may know one of its answers, and then nothing is blind.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, bindparam, exists, func, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from app.db import connection_of
from app.models import Comparison, Evaluation, EvaluationState, Judgment, Prompt, Slot
from app.services.collecting.places import IS_LEASED, IS_OPEN, ONE, PROJECT, RAN_OUT, USER

EVALUATION = bindparam("evaluation", type_=Integer)
ASKED_PAIR, ASKED = aliased(Comparison), aliased(Prompt)
KNOWN_PAIR, ALIKE = aliased(Comparison), aliased(Prompt)
IS_UNDONE = Slot.state != literal_column("'done'")  # in words: that is how a database knows which index answers
# Open, or held by somebody whose time is over.
IS_FREE = or_(IS_OPEN, RAN_OUT)


def knows(person: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a person knows the prompt ASKED. Two looks by an index each: its own pairs, and those of its near duplicates."""
    judged = exists().where(Judgment.comparison_id == KNOWN_PAIR.id, Judgment.user_id == person)
    own = exists().where(KNOWN_PAIR.prompt_id == ASKED.id, judged.correlate(KNOWN_PAIR))
    near = exists().where(
        ALIKE.group_id == ASKED.group_id, KNOWN_PAIR.prompt_id == ALIKE.id, judged.correlate(KNOWN_PAIR)
    )
    return or_(own.correlate(ASKED), near.correlate(ASKED))


def _asked(column: Any) -> Select[Any]:
    """Slots of an evaluation that aren't done, each with its prompt, in the evaluation's order."""
    return (
        select(column)
        .select_from(Slot)
        .join(ASKED_PAIR, ASKED_PAIR.id == Slot.comparison_id)
        .join(ASKED, ASKED.id == ASKED_PAIR.prompt_id)
        .where(Slot.evaluation_id == EVALUATION, Slot.evaluation_id.is_not(None), IS_UNDONE)
    )


def following() -> Select[Any]:
    """The id of the slot that an evaluation asks a person for next."""
    return _asked(Slot.id).where(IS_FREE, ~knows(USER)).order_by(Slot.comparison_id, Slot.ordinal).limit(ONE)


SHARES = (
    select(Evaluation.id, Evaluation.share)
    .where(Evaluation.project_id == PROJECT, Evaluation.state == EvaluationState.ASKING)
    .order_by(Evaluation.id)
)


def turns(session: Session, *, project_id: int) -> list[int | None]:
    """In which order a fresh pair is looked for, drawn now: ids of evaluations, and None for the ordinary pairs.

    Each evaluation is first with the percentage that is its share; where shares add up to more than 100 they take what is left.
    """
    shares = connection_of(session).execute(SHARES, {"project": project_id}).tuples().all()
    return drawn(shares, secrets.randbelow(100))


def drawn(shares: Sequence[tuple[int, int]], number: int) -> list[int | None]:
    """The order that a number from 0 to 99 stands for."""
    order: list[int | None] = [None, *(evaluation_id for evaluation_id, _ in shares)]
    reached = 0
    for evaluation_id, share in shares:
        reached += share
        if number < reached:
            order.remove(evaluation_id)
            return [evaluation_id, *order]
    return order


_OF_PERSON = or_(IS_LEASED & (Slot.holder_id == USER), IS_FREE & ~knows(USER))
WAITING = (
    select(func.count(Slot.comparison_id.distinct()))
    .select_from(Slot)
    .join(ASKED_PAIR, ASKED_PAIR.id == Slot.comparison_id)
    .join(ASKED, ASKED.id == ASKED_PAIR.prompt_id)
    .where(
        Slot.evaluation_id.in_(
            select(Evaluation.id).where(Evaluation.project_id == PROJECT, Evaluation.state == EvaluationState.ASKING)
        ),
        Slot.evaluation_id.is_not(None),
        IS_UNDONE,
        _OF_PERSON,
    )
)


def waiting(session: Session, *, project_id: int, user_id: int, now: datetime) -> int:
    """How many pairs of evaluations wait for a person in a project. Costs what the evaluations that ask have left."""
    return connection_of(session).scalar(WAITING, {"project": project_id, "user": user_id, "now": now}) or 0
