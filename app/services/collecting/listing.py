"""Looking at what was collected: pairs with their votes, a person's judgments, how far a project is. Changes nothing."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, bindparam, exists, func, literal, or_, select
from sqlalchemy.orm import Session, aliased, joinedload

from app import paging
from app.db import connection_of
from app.errors import NotFound
from app.models import (
    Arm,
    Choice,
    Comparison,
    Import,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    Response,
    Side,
    Slot,
    SlotState,
    Split,
    User,
)
from app.models.base import UTCDateTime
from app.models.base import now as utc_now
from app.paging import Page, Stretch
from app.services.collecting import counts, places
from app.services.collecting.blind import hidden, looks
from app.services.collecting.judgments import SideChoice, side_of
from app.services.collecting.messages import Message

TODAY = (  # of one day: as many rows as a person judges in it
    select(func.count())
    .select_from(Judgment)
    .where(
        Judgment.project_id == places.PROJECT,
        Judgment.user_id == places.USER,
        Judgment.submitted_at >= bindparam("midnight", type_=UTCDateTime()),
        Judgment.submitted_at < bindparam("next_midnight", type_=UTCDateTime()),
        ~Judgment.superseded,
        Judgment.source != JudgmentSource.IMPORT,
    )
)
PROGRESS = counts.OF_ONE.add_columns(
    TODAY.scalar_subquery().label("today"), places.COMING_FREE.scalar_subquery().label("coming_free")
)
MOST_COUNTED = 50_000  # comparisons of a project up to which all that match are counted
SEARCHED_AT_ONCE = 5_000
SEARCH_SECONDS = 0.4
LOADED = (joinedload(Comparison.prompt), joinedload(Comparison.first), joinedload(Comparison.second))


@dataclass(frozen=True)
class Filters:
    """What a listing shows: `state` is "", "waiting" (a slot is open or leased), "judged" (none is) or "excluded"."""

    state: str = ""
    split: Split | None = None
    source: str = ""
    text: str = ""
    import_id: int | None = None
    arm: Arm | None = None


@dataclass(frozen=True)
class Row:
    """A comparison (prompt and answers loaded) with its current votes by choice and its slots. `excluded`: it or its import is.
    `hidden`: the number of the evaluation that asks about one of its answers, and until whose end its sources are told to nobody."""

    comparison: Comparison
    votes: dict[Choice, int]
    wanted: int
    done: int
    excluded: bool
    hidden: int = 0


@dataclass(frozen=True)
class Entry:
    """A judgment as its maker saw the pair: the answers on the sides on which they were shown."""

    judgment: Judgment
    prompt: list[Message]
    left: str
    right: str
    choice: SideChoice


@dataclass(frozen=True)
class Progress:
    """Of one person: judgments `today` against the project's daily `goal`, `mine` in all, and pairs that wait for
    them. Of the project: slots `wanted` and `done`."""

    today: int
    goal: int
    mine: int
    done: int
    wanted: int
    waiting_for_me: int


def comparison(session: Session, comparison_id: int) -> Comparison:
    """One comparison with prompt and answers loaded. Raises NotFound."""
    row = session.scalar(select(Comparison).where(Comparison.id == comparison_id).options(*LOADED))
    if row is None:
        raise NotFound(f"There is no comparison {comparison_id}.", "Look at the project's data.")
    return row


def comparisons(
    session: Session, *, project: Project, filters: Filters = Filters(), page: int = 1, size: int = 50, after: int = 0
) -> Page[Row] | Stretch[Row]:
    """Comparisons in the order in which they came, for people who may see sources.

    Filters on a large project give a Stretch from the comparison behind `after`: to count all that match would take longer
    than a page may.
    """
    of_project = select(Comparison.id).where(Comparison.project_id == project.id, Comparison.evaluation_id.is_(None))
    if filters.import_id is not None:  # its own index alone: an import may be the last of many
        theirs = session.scalar(select(Import.project_id).where(Import.id == filters.import_id)) == project.id
        of_project = select(Comparison.id).where(Comparison.import_id == filters.import_id, literal(theirs))
    if filters.source:
        of_project = of_project.where(hidden.shows_sources(project.id))
    there = counts.figures(session, project_id=project.id).comparisons
    if filters != Filters() and there > MOST_COUNTED:
        stretch = _search(session, of_project, filters, after, size)
        return Stretch(_rows(session, stretch.items), stretch.size, stretch.searched, stretch.after)
    query = _filtered(of_project, filters).order_by(Comparison.id)
    numbers: Page[int] = paging.fetch(
        session, query, page=page, size=size, total=there if filters == Filters() else None
    )
    return Page(_rows(session, numbers.items), numbers.number, numbers.size, numbers.total)


def _search(session: Session, of_project: Select[int], filters: Filters, after: int, size: int) -> Stretch[int]:
    """Goes through comparisons, some thousand at a time, until there is a page of them or the time is over."""
    began, searched = time.monotonic(), 0
    items: list[int] = []
    while True:
        following = of_project.where(Comparison.id > after).order_by(Comparison.id).limit(SEARCHED_AT_ONCE).subquery()
        last, count = session.execute(select(func.max(following.c.id), func.count(following.c.id))).one()
        if not count:
            return Stretch(items, size, searched, None)
        some = of_project.where(Comparison.id > after, Comparison.id <= last)
        left = size - len(items)
        matching = list(session.scalars(_filtered(some, filters).order_by(Comparison.id).limit(left)))
        items += matching
        searched, after = searched + count, last
        if len(matching) == left:
            return Stretch(items, size, searched, items[-1])
        if count < SEARCHED_AT_ONCE:
            return Stretch(items, size, searched, None)
        if time.monotonic() - began > SEARCH_SECONDS:
            return Stretch(items, size, searched, last)


def _rows(session: Session, ids: list[int]) -> list[Row]:
    loaded = {row.id: row for row in session.scalars(select(Comparison).where(Comparison.id.in_(ids)).options(*LOADED))}
    votes: dict[int, dict[Choice, int]] = {comparison_id: {} for comparison_id in ids}
    for comparison_id, choice, count in session.execute(
        select(Judgment.comparison_id, Judgment.choice, func.count())
        .where(Judgment.comparison_id.in_(ids), ~Judgment.superseded)
        .group_by(Judgment.comparison_id, Judgment.choice)
    ):
        votes[comparison_id][choice] = count
    slots = places.by_comparison(session, ids)
    left_out = places.left_out(session, ids)
    blind = hidden.of_pairs(session, loaded.values())
    return [
        Row(loaded[number], votes[number], *slots.get(number, (0, 0)), number in left_out, blind.get(number, 0))
        for number in ids
    ]


def judgments_of(session: Session, comparison_id: int) -> list[Judgment]:
    """All judgments of a comparison with their makers, superseded ones too, the oldest first."""
    return list(
        session.scalars(
            select(Judgment)
            .where(Judgment.comparison_id == comparison_id)
            .options(joinedload(Judgment.user))
            .order_by(Judgment.id)
        )
    )


def history(session: Session, *, project: Project, user: User, page: int = 1, size: int = 50) -> Page[Entry]:
    """A person's own current judgments, the latest first."""
    first, second = aliased(Response), aliased(Response)
    current = (
        select(Judgment.id)
        .where(Judgment.project_id == project.id, Judgment.user_id == user.id, ~Judgment.superseded)
        .order_by(Judgment.submitted_at.desc(), Judgment.id.desc())
    )
    numbers: Page[int] = paging.fetch(session, current, page=page, size=size)
    rows = session.execute(
        select(Judgment, Prompt.messages, first.text, second.text)
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(Judgment.id.in_(numbers.items))
        .order_by(Judgment.submitted_at.desc(), Judgment.id.desc())
    )
    entries = []
    for judgment, prompt, one, other in rows:
        left, right = (other, one) if judgment.first_side is Side.RIGHT else (one, other)
        entries.append(Entry(judgment, prompt, left, right, side_of(judgment)))
    return Page(entries, numbers.number, numbers.size, numbers.total)


def progress(session: Session, *, project: Project, user: User, now: datetime | None = None) -> Progress:
    """Counts for the desk. A day starts at midnight in `now`'s zone, by default the server's."""
    now = now or utc_now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    where = {"project": project.id, "user": user.id, "now": now}
    day = {"midnight": midnight, "next_midnight": midnight + timedelta(days=1)}
    row = connection_of(session).execute(PROGRESS, where | day).one()
    kept = counts.with_pending(session, row, user.id)
    blind = looks.waiting(session, project_id=project.id, user_id=user.id, now=now) if kept.asking else 0
    return Progress(
        today=row.today,
        goal=project.daily_goal,
        mine=kept.mine,
        done=kept.done,
        wanted=kept.wanted,
        waiting_for_me=kept.offered - kept.known_offered + row.coming_free + blind,
    )


def _filtered(query: Select[int], filters: Filters) -> Select[int]:
    """Ids only: a late page then passes over an index instead of over texts."""
    first, second = aliased(Response), aliased(Response)
    waiting = exists().where(Slot.comparison_id == Comparison.id, Slot.state != SlotState.DONE)
    if filters.state in ("waiting", "judged"):
        query = query.where(waiting if filters.state == "waiting" else ~waiting)
    if filters.state == "excluded":
        query = query.where(places.IS_LEFT_OUT)
    if filters.split is not None:
        query = query.join(Prompt, Prompt.id == Comparison.prompt_id).where(Prompt.split == filters.split)
    if filters.arm is not None:
        query = query.where(Comparison.arm == filters.arm)
    if filters.source or filters.text:
        query = query.join(first, first.id == Comparison.first_response_id).join(
            second, second.id == Comparison.second_response_id
        )
    if filters.source:
        query = query.where(or_(first.source_name == filters.source, second.source_name == filters.source))
    if filters.text:
        query = query.where(
            or_(
                first.text.icontains(filters.text, autoescape=True),
                second.text.icontains(filters.text, autoescape=True),
            )
        )
    return query
