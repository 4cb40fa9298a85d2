"""The slots of evaluations: opened, leased and taken back here, and nowhere else. `collecting.slots` fills them like any other."""

from collections.abc import Collection
from datetime import datetime
from itertools import groupby
from typing import cast

from sqlalchemy import Engine, String, Table, bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from app.bulk import insert_rows
from app.db import connection_of, read_session, write_session
from app.models import Evaluation, EvaluationPair, EvaluationState, Slot, SlotState, User
from app.models.base import UTCDateTime
from app.services.collecting import counts, places
from app.services.collecting.blind import looks
from app.services.collecting.places import USER

TABLE = cast(Table, Slot.__table__)
TAKE = (
    update(TABLE)
    .where(TABLE.c.id == looks.following().with_for_update(skip_locked=True, key_share=True, of=Slot).scalar_subquery())
    .values(
        state=SlotState.LEASED,
        holder_id=USER,
        lease_token=bindparam("token", type_=String),
        leased_until=bindparam("until", type_=UTCDateTime()),
    )
    .returning(TABLE.c.comparison_id)
)


def take(session: Session, *, evaluation_id: int, user: User, token: str, now: datetime, until: datetime) -> int | None:
    """Leases the first slot of an evaluation that this person may be asked for; returns its comparison's id, None where there
    is none. One conditional UPDATE of one row, as for ordinary slots."""
    where = {"evaluation": evaluation_id, "user": user.id, "token": token, "now": now, "until": until}
    return connection_of(session).scalar(TAKE, where)


def seed(session: Session, *, project_id: int, evaluation_id: int, comparison_ids: Collection[int], votes: int) -> None:
    """Opens the slots that an evaluation wants for its comparisons, whose ids are in its order."""
    rows = [
        (comparison_id, ordinal, 0, places.place_of(0, ordinal, comparison_id))
        for comparison_id in comparison_ids
        for ordinal in range(1, votes + 1)
    ]
    insert_rows(
        session,
        Slot,
        ("comparison_id", "ordinal", "priority", "place"),
        rows,
        project_id=project_id,
        evaluation_id=evaluation_id,
        state=SlotState.OPEN,
    )
    counts.note(session, project_id=project_id, wanted=len(rows))


def withdraw(
    session: Session,
    *,
    project_id: int,
    evaluation_id: int,
    now: datetime,
    comparison_ids: Collection[int] | None = None,
) -> None:
    """Takes back what nobody holds of an evaluation's slots: of all its comparisons, or of some. Who looks at a pair may still
    judge it."""
    free = delete(TABLE).where(TABLE.c.evaluation_id == evaluation_id, looks.IS_FREE)
    if comparison_ids is not None:
        free = free.where(TABLE.c.comparison_id.in_(comparison_ids))
    counts.note(session, project_id=project_id, wanted=-connection_of(session).execute(free, {"now": now}).rowcount)


# Slots of which nothing can come any more: their evaluation has ended, or has counted their prompt.
IDLE = (
    select(Slot.project_id, Slot.evaluation_id, Slot.comparison_id)
    .join(Evaluation, Evaluation.id == Slot.evaluation_id)
    .join(EvaluationPair, EvaluationPair.comparison_id == Slot.comparison_id)
    .where(
        Slot.evaluation_id.is_not(None),
        looks.IS_UNDONE,
        looks.IS_FREE,
        or_(
            Evaluation.state != EvaluationState.ASKING,
            EvaluationPair.value.is_not(None),
            EvaluationPair.left_out != "",
        ),
    )
    .distinct()
    .order_by(Slot.project_id, Slot.evaluation_id)
)


def withdraw_idle(engine: Engine, *, now: datetime) -> None:
    """Takes back what was held at an evaluation's end, or at its prompt's, and was given up since: nobody is asked for it, and it
    would be wanted for ever. For the sweeper."""
    with read_session(engine) as session:
        idle = connection_of(session).execute(IDLE, {"now": now}).all()
    by_evaluation = groupby(idle, key=lambda row: (row[0], row[1]))
    for (project_id, evaluation_id), rows in by_evaluation:
        with write_session(engine) as session:
            withdraw(
                session,
                project_id=project_id,
                evaluation_id=evaluation_id,
                now=now,
                comparison_ids=[comparison_id for *_, comparison_id in rows],
            )
