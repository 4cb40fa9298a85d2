"""Slots, the wanted judgments: the code that writes them, so that each one is whole in every state.

| state | holder | lease (token and until) |
|---|---|---|
| open | nobody | none; `reopened_at` says since when, if it was held before |
| leased | who is asked | until when; the token names what they were shown |
| done | whose judgment it is | none: nobody waits for anybody |

CHECKs hold that. A judgment fills a slot wherever it comes from: an imported one that of the person who imported it. A skip
fills none. A late judgment, for which no slot was left, is kept without one. Evaluations' slots are opened by `blind.slots`.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, cast

from sqlalchemy import BigInteger, ColumnElement, Integer, String, Table, bindparam, insert, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from app.bulk import insert_rows, next_ids
from app.db import connection_of
from app.models import Comparison, Project, Slot, SlotState, User
from app.models.base import UTCDateTime
from app.services.collecting import counts, places, recount
from app.services.collecting.places import IS_JUDGED, IS_LEASED, IS_NEW, IS_REOPENED, ONE, PROJECT, USER, Waiting

UNMATCHED = {"synchronize_session": False}  # no slot of the session has to be matched
NO_LEASE = {"lease_token": None, "leased_until": None}
OPENED = {"state": SlotState.OPEN, "holder_id": None, **NO_LEASE}
TABLE = cast(Table, Slot.__table__)
OVERLAP = timedelta(minutes=2)  # longer than a transaction takes, or clocks of servers differ
BEGIN, UNTIL = bindparam("begin", type_=UTCDateTime()), bindparam("until", type_=UTCDateTime())


@dataclass(frozen=True, slots=True)
class Changed:
    """`slots`: ids of those that were filled or opened, by comparison. `offered`: the comparisons that have an open slot now."""

    slots: dict[int, int] = field(default_factory=dict)
    offered: set[int] = field(default_factory=set)


LOCK_PERSON = select(User.id).where(User.id == USER).with_for_update(key_share=True)
PASSING = "passing"  # in session.info: (who, the transaction in which their others wait)


def one_at_a_time(session: Session, user: User) -> None:
    """Lets a person's requests pass one after the other (two tabs, a double click, a retry). SQLite does so anyway."""
    passing = (user.id, session.get_nested_transaction() or session.get_transaction())
    if connection_of(session).dialect.name != "sqlite" and session.info.get(PASSING) != passing:
        connection_of(session).execute(LOCK_PERSON, {"user": user.id})
        session.info[PASSING] = passing


def seed(
    session: Session,
    *,
    project: Project,
    priorities: Mapping[int, int],
    filled: Set[int] = frozenset(),
    by: User | None = None,
) -> dict[int, int]:
    """Opens the slots that a project wants for new comparisons, given the priority of each by its id. The first one of those that are
    `filled` is done at once, by a person whose judgment comes in this transaction; their ids by comparison."""
    wanted = project.judgments_per_comparison
    rows = [
        (comparison_id, ordinal, priority, places.place_of(priority, ordinal, comparison_id))
        for comparison_id, priority in priorities.items()
        for ordinal in range(1, wanted + 1)
    ]
    done = [row for row in rows if row[1] == 1 and row[0] in filled]
    opened = [row for row in rows if row[1] > 1 or row[0] not in filled] if done else rows
    columns = "comparison_id", "ordinal", "priority", "place"
    insert_rows(session, Slot, columns, opened, project_id=project.id, state=SlotState.OPEN)
    if rows:
        counts.note(session, project_id=project.id, wanted=len(rows), offered=len(priorities), arrivals=1)
    if by is None or not done:
        return {}
    ids = next_ids(session, Slot, len(done))
    numbered = [(number, *row) for number, row in zip(ids, done, strict=True)]
    insert_rows(session, Slot, ("id", *columns), numbered, project_id=project.id, state=SlotState.DONE, holder_id=by.id)
    judged = len(done) if wanted == 1 else 0  # nothing waits any more, and nobody knew the comparison
    counts.note(session, project_id=project.id, user_id=by.id, done=len(done), judged=judged, offered=-judged)
    return {row[0]: number for number, row in zip(ids, done, strict=True)}


def want_one_more(session: Session, *, comparison: Comparison, user: User) -> None:
    """Makes sure that a slot of the comparison is open, beyond what its project wants if need be. On behalf of `user`."""
    states = session.scalars(select(Slot.state).where(Slot.comparison_id == comparison.id)).all()
    if SlotState.OPEN in states:
        return
    ordinal = len(states) + 1
    session.add(
        Slot(
            project_id=comparison.project_id,
            comparison_id=comparison.id,
            ordinal=ordinal,
            priority=comparison.priority,
            place=places.place_of(comparison.priority, ordinal, comparison.id),
        )
    )
    session.flush()
    counts.note(session, project_id=comparison.project_id, wanted=1, arrivals=1)
    was_judged = SlotState.LEASED not in states
    counts.note(session, project_id=comparison.project_id, user_id=user.id, judged=-was_judged)
    counts.note_offers(session, project_id=comparison.project_id, user_id=user.id, opened=[comparison.id], closed=[])


RENEW = (
    update(TABLE)
    .where(
        TABLE.c.id
        == select(Slot.id)
        .where(Slot.id == bindparam("slot", type_=Integer), IS_LEASED, Slot.holder_id == USER)
        .with_for_update()
        .scalar_subquery()
    )
    .values(leased_until=UNTIL)
    .returning(TABLE.c.lease_token)
)


def renew(session: Session, *, slot_id: int, user: User, until: datetime) -> str | None:
    """Extends what this person holds and returns its token; a lease that ran out counts while nobody has taken it over."""
    return connection_of(session).scalar(RENEW, {"slot": slot_id, "user": user.id, "until": until})


def _taking(free: ColumnElement[bool], order: Any) -> Any:
    following = (
        select(Slot.id)
        .join(Comparison, Comparison.id == Slot.comparison_id)
        .where(Slot.project_id == PROJECT, free, ~IS_JUDGED)
        .order_by(order)
        .limit(ONE)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return (
        update(TABLE)
        .where(TABLE.c.id == following.scalar_subquery())
        .values(
            state=SlotState.LEASED,
            holder_id=USER,
            lease_token=bindparam("token", type_=String),
            leased_until=UNTIL,
            reopened_at=None,
        )
        .returning(TABLE.c.comparison_id)
    )


TAKE_RAN_OUT = _taking(places.RAN_OUT & places.IS_ORDINARY, Slot.leased_until)
TAKE_REOPENED = _taking(IS_REOPENED & (Slot.reopened_at >= BEGIN), Slot.reopened_at)
TAKE_PLACE = _taking(IS_NEW & (Slot.place >= bindparam("begin", type_=BigInteger)), Slot.place)


def take(
    session: Session, waiting: Waiting, *, project: Project, user: User, token: str, now: datetime, until: datetime
) -> int | None:
    """Leases an ordinary slot to this person and returns its comparison's id, or None where nothing waits for them.

    First comes what was next before: a slot whose lease ran out, then one that was opened again; then the first place. Each is
    one conditional UPDATE of one row: whoever asks at the same time passes over it, and over its comparison, to the next.
    """
    counts.note(
        session,
        project_id=project.id,
        user_id=user.id,
        place=places.BEHIND_ALL if waiting.place is None else waiting.place - 1,
        place_arrivals=waiting.arrivals,
        reopened_until=(waiting.reopened or now) - OVERLAP,
    )
    where = {"project": project.id, "user": user.id, "token": token, "until": until}
    if waiting.ran_out is not None:
        comparison_id = connection_of(session).scalar(TAKE_RAN_OUT, where | {"now": now})
        if comparison_id is not None:
            return comparison_id
    for statement, begin in ((TAKE_REOPENED, waiting.reopened), (TAKE_PLACE, waiting.place)):
        comparison_id = None if begin is None else connection_of(session).scalar(statement, where | {"begin": begin})
        if comparison_id is not None:
            closed = [] if places.is_offered(session, comparison_id) else [comparison_id]
            counts.note_offers(session, project_id=project.id, user_id=user.id, opened=[], closed=closed)
            return comparison_id
    return None


def settle(session: Session, *, project_id: int, comparison_ids: Collection[int], user: User, now: datetime) -> Changed:
    """Fills a slot of each comparison with this person's judgment: their own, or else the first that is free.

    A comparison without such a slot is left out. All slots are locked in one order, so that two people can't deadlock over them.
    """
    changed, done, judged, closed = Changed(), 0, 0, []
    for comparison_id, slots in groupby(_locked(session, comparison_ids, user, now), key=lambda row: row.comparison_id):
        by_ordinal = sorted(slots, key=lambda row: row.ordinal)
        chosen = next((row for row in by_ordinal if row.is_theirs), None) or next(
            (row for row in by_ordinal if row.is_free), None
        )
        opens = sum(row.state is SlotState.OPEN for row in by_ordinal)
        is_ordinary = by_ordinal[0].evaluation_id is None
        if chosen is not None:
            changed.slots[comparison_id] = chosen.id
            if chosen.state is not SlotState.DONE:
                done += 1
                judged += is_ordinary and all(row is chosen or row.state is SlotState.DONE for row in by_ordinal)
            if is_ordinary and chosen.state is SlotState.OPEN and opens == 1:
                closed.append(comparison_id)
                opens = 0
        if opens and is_ordinary:
            changed.offered.add(comparison_id)
    if changed.slots:
        connection_of(session).execute(FILL, {"slots": list(changed.slots.values()), "user": user.id})
    counts.note(session, project_id=project_id, user_id=user.id, done=done, judged=judged)
    counts.note_offers(session, project_id=project_id, user_id=user.id, opened=[], closed=closed)
    return changed


def open_again(
    session: Session, *, project_id: int, comparison_id: int, user: User, now: datetime, token: str | None = None
) -> Changed:
    """Gives this person's slot of a comparison back to everybody; with a token, only while that lease holds it."""
    rows = list(_locked(session, [comparison_id], user, now))
    theirs = next((row for row in rows if row.is_theirs and token in (None, row.lease_token)), None)
    is_ordinary = all(row.evaluation_id is None for row in rows)
    was_offered = is_ordinary and any(row.state is SlotState.OPEN for row in rows)
    if theirs is None:
        return Changed(offered={comparison_id} if was_offered else set())
    opened_at = now if is_ordinary else None  # an evaluation's slots have one order
    session.execute(
        update(Slot).where(Slot.id == theirs.id).values(**OPENED, reopened_at=opened_at), execution_options=UNMATCHED
    )
    if theirs.state is SlotState.DONE:
        was_judged = is_ordinary and all(row.state is SlotState.DONE for row in rows)
        counts.note(session, project_id=project_id, user_id=user.id, done=-1, judged=-was_judged)
    opened = [] if was_offered or not is_ordinary else [comparison_id]
    counts.note_offers(session, project_id=project_id, user_id=user.id, opened=opened, closed=[])
    return Changed({comparison_id: theirs.id}, {comparison_id} if is_ordinary else set())


def match(session: Session, *, project: Project) -> None:
    """Gives every comparison the slots that the project now wants; what is leased or done stays. Counts the project anew."""
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    recount.hold_still(session)
    _fit(session, project, Comparison.project_id == project.id)
    counts.note(session, project_id=project.id, arrivals=1)
    recount.repair(session, project_id=project.id)


def fit(session: Session, *, project: Project, comparison_ids: Collection[int]) -> None:
    """Gives some comparisons the slots that they are to have: where they are left out none that waits, else as many as the
    project wants. Call it after the exclusion was added or lifted."""
    session.refresh(project, with_for_update={"key_share": True})
    before = _standing(session, comparison_ids)
    _fit(session, project, Comparison.id.in_(comparison_ids))
    after = _standing(session, comparison_ids)
    counts.note_slots(session, project_id=project.id, before=before, after=after)


def remove(session: Session, *, project_id: int, comparison_ids: Collection[int]) -> None:
    """Removes all slots of comparisons that are about to go themselves."""
    before = _standing(session, comparison_ids)
    session.execute(delete_rows(Slot).where(Slot.comparison_id.in_(comparison_ids)), execution_options=UNMATCHED)
    counts.note_slots(session, project_id=project_id, before=before, after={})


def _fit(session: Session, project: Project, these: ColumnElement[bool]) -> None:
    wanted, these = project.judgments_per_comparison, these & Comparison.evaluation_id.is_(None)
    for spare in places.spare(these, wanted):
        session.execute(delete_rows(Slot).where(spare), execution_options=UNMATCHED)
    columns = ["project_id", "comparison_id", "ordinal", "priority", "place", "state"]
    for ordinal in range(1, wanted + 1):
        session.execute(insert(Slot).from_select(columns, places.lacking(these, wanted, ordinal)))


def _standing(session: Session, comparison_ids: Collection[int]) -> counts.Standing:
    """(state, holder) of the slots of each comparison, which are locked."""
    rows = session.execute(places.STANDING, {"comparisons": list(comparison_ids)}).tuples()
    by_comparison = {key: [row[1:] for row in of_one] for key, of_one in groupby(rows, key=lambda row: row[0])}
    return dict.fromkeys(comparison_ids, ()) | by_comparison


FILL = (
    update(TABLE)
    .where(TABLE.c.id.in_(bindparam("slots", expanding=True)))
    .values(state=SlotState.DONE, holder_id=USER, reopened_at=None, **NO_LEASE)
)


def _locked(session: Session, comparison_ids: Collection[int], user: User, now: datetime) -> Any:
    where = {"comparisons": list(comparison_ids), "user": user.id, "now": now}
    return connection_of(session).execute(places.LOCKED, where)
