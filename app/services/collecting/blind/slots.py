"""The slots of evaluations: opened, leased and taken back here, and nowhere else. `collecting.slots` fills them like any other."""

from collections.abc import Collection
from datetime import datetime
from typing import cast

from sqlalchemy import String, Table, bindparam, delete, update
from sqlalchemy.orm import Session

from app.bulk import insert_rows
from app.db import connection_of
from app.models import Slot, SlotState, User
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
