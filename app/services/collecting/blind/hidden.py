"""What is told to nobody while an evaluation asks: whose answer is whose. Who may see sources may judge too.

It is shown again as soon as the evaluation is decided, stopped or void.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.bulk import among
from app.models import Comparison, Evaluation, EvaluationPair, EvaluationState

ACTIVE = (EvaluationState.PREPARING, EvaluationState.ASKING)
COLUMNS: tuple[InstrumentedAttribute[int | None], ...] = (
    EvaluationPair.new_response_id,
    EvaluationPair.old_response_id,
)


def numbers(session: Session, responses: Collection[int]) -> dict[int, int]:
    """Of these answers those whose sources are hidden: the id of each to the number of the evaluation that asks. An ordinary pair
    may have such an answer too, where a model gave the same one before."""
    told: dict[int, int] = {}
    for column in COLUMNS:  # each has an index of its own
        asked = select(column, Evaluation.number).join(Evaluation, Evaluation.id == EvaluationPair.evaluation_id)
        rows = session.execute(asked.where(among(session, column, responses), Evaluation.state.in_(ACTIVE)))
        told |= {response_id: number for response_id, number in rows.tuples() if response_id is not None}
    return told


def of_pairs(session: Session, pairs: Collection[Comparison]) -> dict[int, int]:
    """Of these pairs those whose sources are hidden: the id of each to the number of the evaluation that asks."""
    hidden = numbers(
        session, {number for pair in pairs for number in (pair.first_response_id, pair.second_response_id)}
    )
    told = {pair.id: hidden.get(pair.first_response_id) or hidden.get(pair.second_response_id) for pair in pairs}
    return {pair_id: number for pair_id, number in told.items() if number}


def shows_sources(project_id: int) -> ColumnElement[bool]:
    """Whether a pair may be found by its sources: none of its answers is asked about now."""
    asked = union(
        *(
            select(column)
            .join(Evaluation, Evaluation.id == EvaluationPair.evaluation_id)
            .where(Evaluation.project_id == project_id, Evaluation.state.in_(ACTIVE), column.is_not(None))
            for column in COLUMNS
        )
    ).scalar_subquery()
    return Comparison.first_response_id.not_in(asked) & Comparison.second_response_id.not_in(asked)


def evaluation(session: Session, evaluation_id: int | None) -> Evaluation | None:
    """The evaluation for which answers were made, while they are hidden: it is prepared, or asks."""
    row = session.get(Evaluation, evaluation_id) if evaluation_id is not None else None
    return row if row is not None and row.state in ACTIVE else None
