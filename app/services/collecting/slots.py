"""Slots, the wanted judgments: the only code that writes them, so that each one is whole in every state.

| state | holder | lease (token and until) |
|---|---|---|
| open | nobody | none |
| leased | who is asked | until when; the token names what they were shown |
| done | whose judgment it is | none: nobody waits for anybody |

CHECKs hold that. A judgment fills a slot wherever it comes from: an imported one that of the person who imported it. A skip
fills none. A late judgment, for which no slot was left, is kept without one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.models import Comparison, Judgment, Project, Slot, SlotState, User

# The session holds no slot that these statements would have to be matched with.
UNMATCHED = {"synchronize_session": False}
NO_LEASE = {"lease_token": None, "leased_until": None}
OPENED = {"state": SlotState.OPEN, "holder_id": None, **NO_LEASE}
OTHER = aliased(Slot)


@dataclass(frozen=True, slots=True)
class Places:
    """How many judgments are wanted, and how many of these are there."""

    wanted: int = 0
    done: int = 0


def one_at_a_time(session: Session, user: User) -> None:
    """Lets a person's requests pass one after the other (two tabs, a double click, a retry)."""
    session.execute(select(User.id).where(User.id == user.id).with_for_update(key_share=True))


def seed(session: Session, *, project: Project, priorities: Mapping[int, int]) -> None:
    """Opens the slots that a project wants for new comparisons, given the priority of each by its id."""
    rows = [
        {"project_id": project.id, "comparison_id": comparison_id, "ordinal": ordinal, "priority": priority}
        for comparison_id, priority in priorities.items()
        for ordinal in range(1, project.judgments_per_comparison + 1)
    ]
    if rows:
        session.execute(insert(Slot), rows)


def want_one_more(session: Session, *, comparison: Comparison) -> None:
    """Makes sure that a slot of the comparison is open, beyond what its project wants if need be."""
    states = session.scalars(select(Slot.state).where(Slot.comparison_id == comparison.id)).all()
    if SlotState.OPEN not in states:
        session.add(
            Slot(
                project_id=comparison.project_id,
                comparison_id=comparison.id,
                ordinal=len(states) + 1,
                priority=comparison.priority,
            )
        )
        session.flush()


def renew(session: Session, *, project: Project, user: User, until: datetime) -> str | None:
    """Extends what this person holds in a project and returns its token; a lease that ran out counts while nobody
    has taken it over. None where they hold nothing."""
    mine = (
        select(Slot.id)
        .where(Slot.project_id == project.id, Slot.state == SlotState.LEASED, Slot.holder_id == user.id)
        .order_by(Slot.leased_until.desc())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return session.scalar(
        update(Slot).where(Slot.id == mine.scalar_subquery()).values(leased_until=until).returning(Slot.lease_token),
        execution_options=UNMATCHED,
    )


def take(session: Session, *, project: Project, user: User, token: str, now: datetime, until: datetime) -> int | None:
    """Leases a slot to this person and returns its comparison's id, or None where nothing waits for them.

    A slot whose lease ran out comes first, for it was next before; then the first open one. Each is one conditional
    UPDATE of one row: whoever asks at the same time passes over it to the next.
    """
    for free in _ran_out(now), Slot.state == SlotState.OPEN:
        following = (
            select(Slot.id)
            .where(Slot.project_id == project.id, free, ~_is_known_to(user))
            .order_by(Slot.priority.desc(), Slot.ordinal, Slot.comparison_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        comparison_id = session.scalar(
            update(Slot)
            .where(Slot.id == following.scalar_subquery())
            .values(state=SlotState.LEASED, holder_id=user.id, lease_token=token, leased_until=until)
            .returning(Slot.comparison_id),
            execution_options=UNMATCHED,
        )
        if comparison_id is not None:
            return comparison_id
    return None


def settle(session: Session, *, comparison_ids: Collection[int], user: User, now: datetime) -> dict[int, int]:
    """Fills a slot of each comparison with this person's judgment: their own, or else the first that is free.

    Returns the filled slots' ids by comparison; a comparison without one is left out. All slots are locked in one
    order, so that two people can't deadlock over them.
    """
    rows = session.execute(
        select(
            Slot.id,
            Slot.comparison_id,
            Slot.ordinal,
            Slot.holder_id == user.id,
            or_(Slot.state == SlotState.OPEN, _ran_out(now)),
        )
        .where(Slot.comparison_id.in_(comparison_ids))
        .order_by(Slot.id)
        .with_for_update()
    ).all()
    filled: dict[int, int] = {}
    for slot_id, comparison_id, _, is_theirs, is_free in sorted(rows, key=lambda row: row.ordinal):
        if is_theirs:
            filled[comparison_id] = slot_id
        elif is_free:
            filled.setdefault(comparison_id, slot_id)
    if filled:
        session.execute(
            update(Slot)
            .where(Slot.id.in_(filled.values()))
            .values(state=SlotState.DONE, holder_id=user.id, **NO_LEASE),
            execution_options=UNMATCHED,
        )
    return filled


def open_again(session: Session, *, comparison_id: int, user: User, token: str | None = None) -> bool:
    """Gives this person's slot of a comparison back to everybody; with a token, only while that lease holds it.
    Whether there was one."""
    theirs = [Slot.comparison_id == comparison_id, Slot.holder_id == user.id]
    if token is not None:
        theirs.append(Slot.lease_token == token)
    opened = update(Slot).where(*theirs).values(OPENED).returning(Slot.id)
    return session.scalar(opened, execution_options=UNMATCHED) is not None


def match(session: Session, *, project: Project) -> None:
    """Gives every comparison the slots that the project now wants; what is leased or done stays."""
    wanted = project.judgments_per_comparison
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    before = (
        select(func.count())
        .where(
            OTHER.comparison_id == Slot.comparison_id, or_(OTHER.state != SlotState.OPEN, OTHER.ordinal < Slot.ordinal)
        )
        .scalar_subquery()
    )
    session.execute(
        delete(Slot).where(Slot.project_id == project.id, Slot.state == SlotState.OPEN, before >= wanted),
        execution_options=UNMATCHED,
    )
    for ordinal in range(1, wanted + 1):
        have = select(func.count()).where(Slot.comparison_id == Comparison.id).scalar_subquery()
        lacking = select(
            Comparison.project_id, Comparison.id, literal(ordinal), Comparison.priority, literal(SlotState.OPEN.value)
        ).where(
            Comparison.project_id == project.id,
            have < wanted,
            ~exists().where(Slot.comparison_id == Comparison.id, Slot.ordinal == ordinal),
        )
        session.execute(
            insert(Slot).from_select(["project_id", "comparison_id", "ordinal", "priority", "state"], lacking)
        )


def by_project(session: Session) -> dict[int, Places]:
    """The places of every project that has comparisons, by its id."""
    return _places(session, Slot.project_id)


def of_project(session: Session, project: Project) -> Places:
    return _places(session, Slot.project_id, Slot.project_id == project.id).get(project.id, Places())


def by_comparison(session: Session, comparison_ids: Collection[int]) -> dict[int, Places]:
    return _places(session, Slot.comparison_id, Slot.comparison_id.in_(comparison_ids))


def is_free_for(user: User, now: datetime) -> ColumnElement[bool]:
    """Whether this person could get a slot, or holds it, were it not for what they judged before."""
    held = and_(Slot.state == SlotState.LEASED, Slot.holder_id == user.id)
    return or_(Slot.state == SlotState.OPEN, _ran_out(now), held)


def _places(session: Session, key: InstrumentedAttribute[int], *where: ColumnElement[bool]) -> dict[int, Places]:
    done = func.count().filter(Slot.state == SlotState.DONE)
    rows = session.execute(select(key, func.count(), done).where(*where).group_by(key))
    return {number: Places(wanted, done) for number, wanted, done in rows}


def _ran_out(now: datetime) -> ColumnElement[bool]:
    return and_(Slot.state == SlotState.LEASED, Slot.leased_until < now)


def _is_known_to(user: User) -> ColumnElement[bool]:
    """Whether a slot's comparison was judged (or skipped) by this person, or another slot of it is theirs."""
    return or_(
        exists().where(Judgment.comparison_id == Slot.comparison_id, Judgment.user_id == user.id),
        exists().where(OTHER.comparison_id == Slot.comparison_id, OTHER.holder_id == user.id),
    )
