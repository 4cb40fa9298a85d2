"""Comparisons: storing pairs of answers, and handing the next one to a person."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session, aliased, joinedload

from app import paging
from app.errors import Invalid, NotFound
from app.models import (
    Choice,
    Comparison,
    Judgment,
    Project,
    Prompt,
    Response,
    Showing,
    Side,
    Slot,
    SlotState,
    SourceKind,
    Split,
    User,
)
from app.models.base import now as utc_now
from app.paging import Page
from app.services.collecting.messages import Message, Unfit, answers_of, pair_hash, prompt_hash, prompt_of, text_hash

PRIORITIES = range(-1_000_000, 1_000_001)
LOADED = (joinedload(Comparison.prompt), joinedload(Comparison.first), joinedload(Comparison.second))
LONGEST_EXTERNAL_ID = LONGEST_SOURCE = 255


@dataclass(frozen=True)
class Source:
    """Where an answer comes from."""

    kind: SourceKind = SourceKind.FILE
    name: str = ""


UNKNOWN = Source()


@dataclass(frozen=True)
class NewPair:
    """A pair to be stored; prompt and answers have passed `conversations`."""

    prompt: list[Message]
    responses: tuple[str, str]
    sources: tuple[Source, Source] = (UNKNOWN, UNKNOWN)
    priority: int = 0
    gold: Choice | None = None
    external_id: str | None = None


@dataclass(frozen=True)
class Stored:
    """Where a pair ended up. `swapped`: it was there already with its answers the other way round."""

    comparison_id: int
    added: bool
    swapped: bool


@dataclass(frozen=True)
class Lease:
    """A pair as one person gets it. Nothing in it says who wrote which answer. `previous` is the judgment that
    submitting this token replaces; such a lease never runs out (`leased_until` is None)."""

    token: str
    comparison_id: int
    prompt: list[Message]
    left: str
    right: str
    leased_until: datetime | None
    guideline_version: int
    previous: Judgment | None = None


@dataclass(frozen=True)
class Filters:
    """What a listing shows: `state` is "", "waiting" (a slot is open or leased) or "judged" (none is)."""

    state: str = ""
    split: Split | None = None
    source: str = ""
    text: str = ""
    import_id: int | None = None


@dataclass(frozen=True)
class Row:
    """A comparison (prompt and answers loaded) with its current votes by choice and its slots."""

    comparison: Comparison
    votes: dict[Choice, int]
    wanted: int
    done: int


# --- storing -------------------------------------------------------------------------------------------------------


def add(
    session: Session,
    *,
    project: Project,
    prompt: object,
    responses: Sequence[object],
    sources: Sequence[Source] = (UNKNOWN, UNKNOWN),
    priority: int = 0,
    gold: Choice | None = None,
    external_id: str | None = None,
    import_id: int | None = None,
) -> tuple[Comparison, bool]:
    """Stores one pair; (the comparison, whether it is new). Raises Invalid with the reason."""
    try:
        if len(responses) != 2 or len(sources) != 2:
            raise Unfit("not_two_answers", "A comparison has exactly two answers.")
        pair = NewPair(
            prompt_of(prompt),
            answers_of(responses[0], responses[1], ("The first answer", "The second answer")),
            (sources[0], sources[1]),
            priority,
            gold,
            external_id,
        )
    except Unfit as unfit:
        raise Invalid(unfit.message, "Mend the pair and add it again.", reason=unfit.reason) from unfit
    (stored,) = add_many(session, project=project, pairs=[pair], import_id=import_id)
    return session.get_one(Comparison, stored.comparison_id), stored.added


def add_many(
    session: Session, *, project: Project, pairs: Sequence[NewPair], import_id: int | None = None
) -> list[Stored]:
    """Stores pairs in the order given; content that the project has already is found, not stored again."""
    # One writer of comparisons a project at a time, so that "look, then insert" holds on PostgreSQL too.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    hashed = [_Hashed.of(pair) for pair in pairs]
    prompts = _store_prompts(session, project, {one.prompt: one.pair.prompt for one in hashed})
    answers: dict[tuple[int, str], tuple[str, Source]] = {}
    for one in hashed:
        for key, text, source in zip(one.answers, one.pair.responses, one.pair.sources, strict=True):
            answers.setdefault((prompts[one.prompt], key), (text, source))
    responses = _store_responses(session, answers)
    rows: dict[str, dict[str, Any]] = {}
    for one in hashed:
        prompt_id = prompts[one.prompt]
        rows.setdefault(
            one.whole,
            {
                "project_id": project.id,
                "pair_hash": one.whole,
                "prompt_id": prompt_id,
                "priority": one.pair.priority,
                "first_response_id": responses[prompt_id, one.answers[0]],
                "second_response_id": responses[prompt_id, one.answers[1]],
                "gold_choice": one.pair.gold,
                "external_id": one.pair.external_id,
                "import_id": import_id,
            },
        )
    known, fresh = _store_comparisons(session, project, rows)
    stored = []
    for one in hashed:
        comparison_id, first_response_id = known[one.whole]
        swapped = first_response_id != responses[prompts[one.prompt], one.answers[0]]
        stored.append(Stored(comparison_id, one.whole in fresh, swapped))
        fresh.discard(one.whole)  # the same pair twice in one call: the second is a duplicate
    return stored


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A pair with the hashes of its prompt, its answers in order, and the whole."""

    pair: NewPair
    prompt: str
    answers: tuple[str, str]
    whole: str

    @classmethod
    def of(cls, pair: NewPair) -> "_Hashed":
        prompt, answers = prompt_hash(pair.prompt), (text_hash(pair.responses[0]), text_hash(pair.responses[1]))
        return cls(pair, prompt, answers, pair_hash(prompt, answers))


# Each inserts what is missing and then looks its ids up: RETURNING in order would be one statement a row on SQLite.


def _store_prompts(session: Session, project: Project, wanted: dict[str, list[Message]]) -> dict[str, int]:
    query = select(Prompt.content_hash, Prompt.id).where(Prompt.project_id == project.id)
    ids = dict(session.execute(query.where(Prompt.content_hash.in_(wanted))).tuples().all())
    missing = [key for key in wanted if key not in ids]
    if missing:
        session.execute(
            insert(Prompt),
            [
                {
                    "project_id": project.id,
                    "content_hash": key,
                    "messages": wanted[key],
                    "split": split_of(key, project.eval_percent),
                }
                for key in missing
            ],
        )
        ids.update(session.execute(query.where(Prompt.content_hash.in_(missing))).tuples().all())
    return ids


def split_of(content_hash: str, eval_percent: int) -> Split:
    """A prompt's split from its content alone, so that the same prompt is never trained on in one project's
    history and evaluated on in another part of it."""
    return Split.EVAL if int(content_hash[:12], 16) % 100 < eval_percent else Split.TRAIN


def _store_responses(session: Session, wanted: dict[tuple[int, str], tuple[str, Source]]) -> dict[tuple[int, str], int]:
    query = select(Response.prompt_id, Response.content_hash, Response.id).where(
        Response.prompt_id.in_({prompt_id for prompt_id, _ in wanted}),
        Response.content_hash.in_({key for _, key in wanted}),
    )
    ids = {(prompt_id, key): response_id for prompt_id, key, response_id in session.execute(query)}
    missing = [key for key in wanted if key not in ids]
    if missing:
        session.execute(
            insert(Response),
            [
                {
                    "prompt_id": prompt_id,
                    "content_hash": key,
                    "text": text,
                    "characters": len(text),
                    "words": len(text.split()),
                    "source_kind": source.kind,
                    "source_name": source.name,
                }
                for (prompt_id, key), (text, source) in ((key, wanted[key]) for key in missing)
            ],
        )
        ids = {(prompt_id, key): response_id for prompt_id, key, response_id in session.execute(query)}
    return ids


def _store_comparisons(
    session: Session, project: Project, rows: dict[str, dict[str, Any]]
) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """({pair hash: (comparison id, its first response's id)}, hashes of the new ones)."""
    query = select(Comparison.pair_hash, Comparison.id, Comparison.first_response_id).where(
        Comparison.project_id == project.id
    )
    known = {
        key: (row_id, first_id)
        for key, row_id, first_id in session.execute(query.where(Comparison.pair_hash.in_(rows)))
    }
    missing = [key for key in rows if key not in known]
    if missing:
        session.execute(insert(Comparison), [rows[key] for key in missing])
        known |= {
            key: (row_id, first_id)
            for key, row_id, first_id in session.execute(query.where(Comparison.pair_hash.in_(missing)))
        }
        session.execute(
            insert(Slot),
            [
                {
                    "project_id": project.id,
                    "comparison_id": known[key][0],
                    "ordinal": ordinal,
                    "rank": -rows[key]["priority"],
                }
                for key in missing
                for ordinal in range(1, project.judgments_per_comparison + 1)
            ],
        )
    return known, set(missing)


def match_slots(session: Session, *, project: Project) -> None:
    """Gives every comparison the slots that the project now wants; what is leased or done stays."""
    wanted = project.judgments_per_comparison
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    other = aliased(Slot)
    before = (
        select(func.count())
        .where(
            other.comparison_id == Slot.comparison_id, or_(other.state != SlotState.OPEN, other.ordinal < Slot.ordinal)
        )
        .scalar_subquery()
    )
    session.execute(
        delete(Slot).where(Slot.project_id == project.id, Slot.state == SlotState.OPEN, before >= wanted),
        execution_options={"synchronize_session": False},
    )
    for ordinal in range(1, wanted + 1):
        have = select(func.count()).where(Slot.comparison_id == Comparison.id).scalar_subquery()
        lacking = select(
            Comparison.project_id, Comparison.id, literal(ordinal), -Comparison.priority, literal(SlotState.OPEN.value)
        ).where(
            Comparison.project_id == project.id,
            have < wanted,
            ~exists().where(Slot.comparison_id == Comparison.id, Slot.ordinal == ordinal),
        )
        session.execute(insert(Slot).from_select(["project_id", "comparison_id", "ordinal", "rank", "state"], lacking))


# --- leasing -------------------------------------------------------------------------------------------------------


def lease_next(session: Session, *, project: Project, user: User, now: datetime | None = None) -> Lease | None:
    """The pair that this person judges next; None where nothing waits for them. Who asks again before judging,
    from whatever tab, gets the same pair with the same sides."""
    now = now or utc_now()
    one_at_a_time(session, user)
    until = now + timedelta(seconds=project.lease_seconds)
    showing = _held(session, project, user, until) or _take(session, project, user, now, until)
    if showing is None:
        return None
    showing.guideline_version = project.guideline_version
    session.flush()
    return as_lease(session, showing, until)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def one_at_a_time(session: Session, user: User) -> None:
    """Lets a person's requests pass one after the other (two tabs, a double click, a retry)."""
    session.execute(select(User.id).where(User.id == user.id).with_for_update(key_share=True))


def _held(session: Session, project: Project, user: User, until: datetime) -> Showing | None:
    """What this person holds, its lease renewed; a lease that ran out counts while nobody has taken it over."""
    mine = (
        select(Slot.id)
        .where(Slot.project_id == project.id, Slot.state == SlotState.LEASED, Slot.holder_id == user.id)
        .order_by(Slot.leased_until.desc())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    token = session.scalar(
        update(Slot).where(Slot.id == mine.scalar_subquery()).values(leased_until=until).returning(Slot.lease_token),
        execution_options={"synchronize_session": False},
    )
    return session.scalar(select(Showing).where(Showing.token == token)) if token else None


def _take(session: Session, project: Project, user: User, now: datetime, until: datetime) -> Showing | None:
    """Leases a slot whose lease ran out, for those were next before, or else the first open one.

    One conditional UPDATE of one row each: whoever asks at the same time passes over it to the next.
    """
    token = new_token()
    for free in (Slot.state == SlotState.LEASED) & (Slot.leased_until < now), Slot.state == SlotState.OPEN:
        following = (
            select(Slot.id)
            .where(Slot.project_id == project.id, free, ~_is_known_to(user))
            .order_by(Slot.rank, Slot.ordinal, Slot.comparison_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        comparison_id = session.scalar(
            update(Slot)
            .where(Slot.id == following.scalar_subquery())
            .values(state=SlotState.LEASED, holder_id=user.id, lease_token=token, leased_at=now, leased_until=until)
            .returning(Slot.comparison_id),
            execution_options={"synchronize_session": False},
        )
        if comparison_id is not None:
            showing = Showing(
                token=token,
                comparison_id=comparison_id,
                user_id=user.id,
                shown_at=now,
                first_side=secrets.choice((Side.LEFT, Side.RIGHT)),
            )
            session.add(showing)
            return showing
    return None


OPENED = {"state": SlotState.OPEN, "holder_id": None, "lease_token": None, "leased_at": None, "leased_until": None}


def _is_known_to(user: User) -> ColumnElement[bool]:
    """Whether a slot's comparison was judged (or skipped) by this person, or another slot of it is theirs."""
    other = aliased(Slot)
    return or_(
        exists().where(Judgment.comparison_id == Slot.comparison_id, Judgment.user_id == user.id),
        exists().where(other.comparison_id == Slot.comparison_id, other.holder_id == user.id),
    )


def as_lease(session: Session, showing: Showing, until: datetime | None, previous: Judgment | None = None) -> Lease:
    """A showing with its texts, each answer on its side."""
    comparison = session.execute(
        select(Comparison).where(Comparison.id == showing.comparison_id).options(*LOADED)
    ).scalar_one()
    left, right = comparison.first.text, comparison.second.text
    if showing.first_side is Side.RIGHT:
        left, right = right, left
    return Lease(
        showing.token,
        comparison.id,
        comparison.prompt.messages,
        left,
        right,
        until,
        showing.guideline_version,
        previous,
    )


def shown(session: Session, *, token: str, user: User) -> Showing:
    """The showing behind a token. Raises NotFound for a token that isn't this person's."""
    showing = (
        session.scalar(select(Showing).where(Showing.token == token, Showing.user_id == user.id))
        if "\0" not in token
        else None
    )
    if showing is None:
        raise NotFound("This pair isn't yours to judge, or its token is wrong.", "Ask for the next pair.")
    return showing


def release(session: Session, *, token: str, user: User) -> bool:
    """Gives a leased pair back unjudged; False where it wasn't held any more."""
    shown(session, token=token, user=user)
    mine = select(Slot.id).where(Slot.lease_token == token, Slot.holder_id == user.id, Slot.state == SlotState.LEASED)
    freed = session.scalar(
        update(Slot).where(Slot.id.in_(mine)).values(OPENED).returning(Slot.id),
        execution_options={"synchronize_session": False},
    )
    return freed is not None


# --- looking -------------------------------------------------------------------------------------------------------


def get(session: Session, comparison_id: int) -> Comparison:
    """One comparison with prompt and answers loaded."""
    row = session.scalar(select(Comparison).where(Comparison.id == comparison_id).options(*LOADED))
    if row is None:
        raise NotFound(f"There is no comparison {comparison_id}.", "Look at the project's data.")
    return row


def listing(
    session: Session, *, project: Project, filters: Filters = Filters(), page: int = 1, size: int = 50
) -> Page[Row]:
    """Comparisons in the order in which they came, for people who may see sources."""
    found = paging.fetch(session, _filtered(project, filters), page=page, size=size)
    ids = found.items
    loaded = {row.id: row for row in session.scalars(select(Comparison).where(Comparison.id.in_(ids)).options(*LOADED))}
    votes: dict[int, dict[Choice, int]] = {comparison_id: {} for comparison_id in ids}
    for comparison_id, choice, count in session.execute(
        select(Judgment.comparison_id, Judgment.choice, func.count())
        .where(Judgment.comparison_id.in_(ids), ~Judgment.superseded)
        .group_by(Judgment.comparison_id, Judgment.choice)
    ):
        votes[comparison_id][choice] = count
    slots = {
        comparison_id: (wanted, done)
        for comparison_id, wanted, done in session.execute(
            select(Slot.comparison_id, func.count(), func.count().filter(Slot.state == SlotState.DONE))
            .where(Slot.comparison_id.in_(ids))
            .group_by(Slot.comparison_id)
        )
    }
    rows = [Row(loaded[comparison_id], votes[comparison_id], *slots[comparison_id]) for comparison_id in ids]
    return Page(rows, found.number, found.size, found.total)


def _filtered(project: Project, filters: Filters) -> Select[int]:
    """Ids only: a late page then passes over an index instead of over texts."""
    first, second = aliased(Response), aliased(Response)
    query = select(Comparison.id).where(Comparison.project_id == project.id).order_by(Comparison.id)
    waiting = exists().where(Slot.comparison_id == Comparison.id, Slot.state != SlotState.DONE)
    if filters.state in ("waiting", "judged"):
        query = query.where(waiting if filters.state == "waiting" else ~waiting)
    if filters.import_id is not None:
        query = query.where(Comparison.import_id == filters.import_id)
    if filters.split is not None:
        query = query.join(Prompt, Prompt.id == Comparison.prompt_id).where(Prompt.split == filters.split)
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
