"""Places in the order in which slots are asked for, and what waits for one person: looks alone, locks and changes nothing.

Three orders, each an index of its own, so that a look costs the same however many slots there are:

1. slots whose lease ran out, by when it did;
2. slots that were held and opened again, by when they were opened;
3. all other open slots by `place`: priority, highest first, then ordinal, then comparison.

What a person has judged stays open for others, and a look has to pass over it. It does so once: `slots.take` notes, in the person's
counts, up to where of the second and the third order nothing is left for them. Nothing appears before that: a slot that is opened
again goes to the end of the second order, and when slots arrive (an import, a change of rules) the project's `arrivals` say
that the third order is to be searched from its beginning again.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.orm import Session, aliased

from app.db import connection_of
from app.models import (
    Comparison,
    EvaluatorCount,
    Exclusion,
    Judgment,
    Project,
    ProjectCount,
    Prompt,
    Slot,
    SlotState,
    User,
)
from app.models.base import UTCDateTime
from app.models.comparison import PLACE
from app.services.collecting.counts import Figures

BEHIND_ALL = 2**62
ONE: ColumnElement[int] = literal_column(
    "1", Integer
)  # in words too: PostgreSQL plans otherwise for a number that it doesn't know
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
OTHER = aliased(Slot)
PROJECT, USER = bindparam("project", type_=Integer), bindparam("user", type_=Integer)
NOW = bindparam("now", type_=UTCDateTime())
# In words, not as a parameter: that is how a database knows which index answers.
IS_OPEN = Slot.state == literal_column("'open'")
IS_LEASED = Slot.state == literal_column("'leased'")
# Slots of evaluations stand in none of these orders: collecting.blind looks for them.
IS_ORDINARY = Slot.evaluation_id.is_(None)
IS_REOPENED = Slot.reopened_at.is_not(None) & IS_ORDINARY
IS_NEW = IS_OPEN & Slot.reopened_at.is_(None) & IS_ORDINARY
RAN_OUT = IS_LEASED & (Slot.leased_until < NOW)
# Whether the person has judged (or skipped) a slot's comparison.
IS_JUDGED = exists().where(Judgment.comparison_id == Slot.comparison_id, Judgment.user_id == USER).correlate(Slot)

# Whether a comparison is left out: it or its import is excluded.
# A comparison whose prompt is kept for evaluation: nobody is asked about it.
IS_KEPT = (
    exists().where(Prompt.id == Comparison.prompt_id, Prompt.split == literal_column("'kept'")).correlate(Comparison)
)
IS_LEFT_OUT = or_(
    *(
        exists().where(of_exclusion == of_comparison, Exclusion.lifted_at.is_(None)).correlate(Comparison)
        for of_exclusion, of_comparison in (
            (Exclusion.comparison_id, Comparison.id),
            (Exclusion.import_id, Comparison.import_id),
        )
    )
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a person: the slot that they hold, since when a lease of somebody else's has run out, since when a slot is open
    again, and the first open `place`. `arrivals` of slots in the project at that moment, and evaluations that are `asking`."""

    arrivals: int
    held: int | None
    ran_out: datetime | None
    reopened: datetime | None
    place: int | None
    asking: int = 0


def place_of(priority: int, ordinal: int, comparison_id: int) -> int:
    """A slot's place; models.comparison.PLACE says the same in SQL, and a CHECK holds it."""
    return ((1_000_000 - priority) * 64 + ordinal) * 2**31 + comparison_id


def offered(session: Session, comparison_ids: Collection[int]) -> set[int]:
    """Those of the comparisons that have an open slot."""
    waits = select(Slot.comparison_id).where(Slot.comparison_id.in_(comparison_ids), Slot.state == SlotState.OPEN)
    return set(session.scalars(waits))


def _first(column: Any, *where: ColumnElement[bool], order: Any) -> Select[Any]:
    return select(column).where(Slot.project_id == PROJECT, *where).order_by(order).limit(ONE)


_REACHED = case((EvaluatorCount.place_arrivals == ProjectCount.arrivals, EvaluatorCount.place), else_=0)
_SINCE = func.coalesce(EvaluatorCount.reopened_until, bindparam("long_ago", LONG_AGO, type_=UTCDateTime()))
LOOK = (
    select(
        ProjectCount.arrivals,
        _first(Slot.id, IS_LEASED, Slot.holder_id == USER, order=Slot.leased_until.desc()).scalar_subquery(),
        _first(Slot.leased_until, RAN_OUT & IS_ORDINARY, ~IS_JUDGED, order=Slot.leased_until).scalar_subquery(),
        _first(
            Slot.reopened_at, IS_REOPENED, Slot.reopened_at >= _SINCE, ~IS_JUDGED, order=Slot.reopened_at
        ).scalar_subquery(),
        _first(Slot.place, IS_NEW, Slot.place > _REACHED, ~IS_JUDGED, order=Slot.place).scalar_subquery(),
        ProjectCount.asking,
    )
    .outerjoin(
        EvaluatorCount, (EvaluatorCount.project_id == ProjectCount.project_id) & (EvaluatorCount.user_id == USER)
    )
    .where(ProjectCount.project_id == PROJECT)
)


def look(session: Session, *, project: Project, user: User, now: datetime) -> Waiting:
    """What waits for a person in a project."""
    row = connection_of(session).execute(LOOK, {"project": project.id, "user": user.id, "now": now}).one_or_none()
    return Waiting(*row) if row else Waiting(0, None, None, None, None)


_IS_OFFERED = exists().where(OTHER.comparison_id == Slot.comparison_id, OTHER.state == literal_column("'open'"))
_HELD, _FREE = (
    select(Slot.project_id, Slot.comparison_id).where(which, Slot.project_id == PROJECT, ~_IS_OFFERED, ~IS_JUDGED)
    for which in (IS_LEASED & (Slot.holder_id == USER) & IS_ORDINARY, RAN_OUT & IS_ORDINARY)
)
# Comparisons without an open slot of which the person holds one, or could get one whose lease ran out.
COMING_FREE = select(func.count()).select_from(_HELD.union(_FREE).subquery())


def waiting(session: Session, kept: Mapping[int, Figures], *, user_id: int, now: datetime) -> dict[int, int]:
    """How many comparisons wait for a person in each project, given the kept counts by project."""
    return {
        project_id: figures.offered
        - figures.known_offered
        + (connection_of(session).scalar(COMING_FREE, {"project": project_id, "user": user_id, "now": now}) or 0)
        for project_id, figures in kept.items()
    }


IS_OFFERED = select(exists().where(Slot.comparison_id == bindparam("comparison", type_=Integer), IS_OPEN))


def is_offered(session: Session, comparison_id: int) -> bool:
    """Whether a slot of the comparison is open."""
    return connection_of(session).scalar(IS_OFFERED, {"comparison": comparison_id}) or False


def spare(these: ColumnElement[bool], wanted: int) -> Iterator[ColumnElement[bool]]:
    """The conditions on Slot for what these comparisons are not to have: open ones beyond those that are wanted, and any that
    waits where they are left out."""
    before = (
        select(func.count())
        .where(
            OTHER.comparison_id == Slot.comparison_id, or_(OTHER.state != SlotState.OPEN, OTHER.ordinal < Slot.ordinal)
        )
        .scalar_subquery()
    )
    yield Slot.comparison_id.in_(select(Comparison.id).where(these)) & IS_OPEN & (before >= wanted)
    left_out = select(Comparison.id).where(these, IS_LEFT_OUT | IS_KEPT)
    yield Slot.comparison_id.in_(left_out) & (Slot.state != SlotState.DONE)


def lacking(these: ColumnElement[bool], wanted: int, ordinal: int) -> Any:
    """The slots of this ordinal that these comparisons lack: project, comparison, ordinal, priority, place, state."""
    place = PLACE.replace("priority", "comparisons.priority").replace("comparison_id", "comparisons.id")
    have = select(func.count()).where(Slot.comparison_id == Comparison.id).scalar_subquery()
    return select(
        Comparison.project_id,
        Comparison.id,
        literal(ordinal),
        Comparison.priority,
        literal_column(place.replace("ordinal", str(ordinal))),
        literal(SlotState.OPEN.value),
    ).where(
        these,
        have < wanted,
        ~IS_LEFT_OUT,
        ~IS_KEPT,
        ~exists().where(Slot.comparison_id == Comparison.id, Slot.ordinal == ordinal),
    )


def left_out(session: Session, comparison_ids: Collection[int]) -> set[int]:
    """Those of the comparisons that are left out."""
    return set(session.scalars(select(Comparison.id).where(Comparison.id.in_(comparison_ids), IS_LEFT_OUT)))


STANDING = (
    select(Slot.comparison_id, Slot.state, Slot.holder_id)
    .where(Slot.comparison_id.in_(bindparam("comparisons", expanding=True)))
    .order_by(Slot.comparison_id, Slot.id)
    .with_for_update()
)

LOCKED = (
    select(
        Slot.id,
        Slot.comparison_id,
        Slot.ordinal,
        Slot.state,
        Slot.lease_token,
        Slot.evaluation_id,
        func.coalesce(Slot.holder_id == USER, False).label("is_theirs"),
        or_(Slot.state == SlotState.OPEN, RAN_OUT).label("is_free"),
    )
    .where(Slot.comparison_id.in_(bindparam("comparisons", expanding=True)))
    .order_by(Slot.comparison_id, Slot.id)
    .with_for_update()
)


def by_comparison(session: Session, comparison_ids: Collection[int]) -> dict[int, tuple[int, int]]:
    """(judgments that are wanted, how many of these are there) of each comparison."""
    rows = session.execute(
        select(Slot.comparison_id, func.count(), func.count().filter(Slot.state == SlotState.DONE))
        .where(Slot.comparison_id.in_(comparison_ids))
        .group_by(Slot.comparison_id)
    )
    return {comparison_id: (wanted, done) for comparison_id, wanted, done in rows}
