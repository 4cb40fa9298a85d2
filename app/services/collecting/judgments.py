"""Judgments: recorded once, edited by superseding. The rows are their own history, so no audit entries repeat them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased, joinedload

from app import paging
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Choice,
    Comparison,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    Response,
    Showing,
    Side,
    Slot,
    SlotState,
    User,
)
from app.models.base import now as utc_now
from app.paging import Page
from app.services.collecting import comparisons
from app.services.collecting.comparisons import Lease
from app.services.collecting.messages import Message

SideChoice = Literal["left", "right", "tie", "both_bad", "skip"]
SIDE_CHOICES: tuple[SideChoice, ...] = ("left", "right", "tie", "both_bad", "skip")
LONGEST_RATIONALE = 4_000
# What an evaluator may say about the pair itself; a flagged pair is left out of snapshots unless their rule says otherwise.
FLAGS = {
    "personal_data": "Contains personal data",
    "unsafe": "Unsafe to train on",
    "broken": "Broken or cut off",
    "off_topic": "Doesn't belong in this project",
}


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


@dataclass(frozen=True)
class Entry:
    """A judgment as its maker saw the pair: the answers on the sides on which they were shown."""

    judgment: Judgment
    prompt: list[Message]
    left: str
    right: str
    choice: SideChoice


def choice_on(side: Side | None, choice: SideChoice) -> Choice:
    """The stored choice for what was picked, given the side on which the first answer was."""
    if choice in ("left", "right"):
        return Choice.FIRST if choice == (side or Side.LEFT).value else Choice.SECOND
    return Choice(choice)


def side_of(judgment: Judgment) -> SideChoice:
    """What was picked, in terms of sides; an imported judgment had its first answer on the left."""
    first = (judgment.first_side or Side.LEFT).value
    other: SideChoice = "left" if first == "right" else "right"
    if judgment.choice is Choice.FIRST:
        return "right" if first == "right" else "left"
    return other if judgment.choice is Choice.SECOND else judgment.choice.value  # type: ignore[return-value]


def record(
    session: Session,
    *,
    token: str,
    user: User,
    choice: SideChoice,
    strength: int | None = None,
    rationale: str = "",
    flags: Sequence[str] = (),
    source: JudgmentSource = JudgmentSource.WEB,
    now: datetime | None = None,
) -> Judgment:
    """Stores what a person says of the pair that `token` shows them. The same submission again returns the same row.

    strength: 1 slightly, 2 clearly, 3 far better; kept for `left` and `right` only.
    Raises NotFound for somebody else's token, Conflict where the token has another answer already, Invalid otherwise.
    """
    now = now or utc_now()
    comparisons.one_at_a_time(session, user)
    showing = comparisons.shown(session, token=token, user=user)
    if choice not in SIDE_CHOICES:
        raise Invalid(
            f"“{str(choice)[:40]}” isn't a choice.", f"Choose one of {', '.join(SIDE_CHOICES)}.", field="choice"
        )
    said = {
        "choice": choice_on(showing.first_side, choice),
        "strength": strength if choice in ("left", "right") else None,
        "rationale": rationale.strip(),
        "flags": sorted(set(flags)),
    }
    recorded = session.scalar(select(Judgment).where(Judgment.lease_token == token))
    if recorded is not None:
        if any(getattr(recorded, key) != value for key, value in said.items()):
            raise Conflict(
                "This pair has another judgment of yours already.", "Undo it to change it.", judgment_id=recorded.id
            )
        return recorded
    project = session.scalars(
        select(Project)
        .join(Comparison, Comparison.project_id == Project.id)
        .where(Comparison.id == showing.comparison_id)
    ).one()
    _check(project, choice, strength, said["rationale"], said["flags"])  # type: ignore[arg-type]
    slot = _settle_slot(session, showing, user, token, now, skipped=choice == "skip")
    previous = session.scalar(
        select(Judgment).where(
            Judgment.comparison_id == showing.comparison_id, Judgment.user_id == user.id, ~Judgment.superseded
        )
    )
    if previous is not None and all(getattr(previous, key) == value for key, value in said.items()):
        return previous  # looked at again and left as it was
    if previous is not None:
        session.execute(update(Judgment).where(Judgment.id == previous.id).values(superseded=True))
    judgment = Judgment(
        project_id=project.id,
        comparison_id=showing.comparison_id,
        slot_id=slot.id if slot else None,
        user_id=user.id,
        first_side=showing.first_side,
        shown_at=showing.shown_at,
        submitted_at=now,
        guideline_version=showing.guideline_version,
        lease_token=token,
        source=source,
        late=slot is None and choice != "skip",
        supersedes_id=previous.id if previous else None,
        **said,
    )
    session.add(judgment)
    session.flush()
    return judgment


def _check(project: Project, choice: SideChoice, strength: int | None, rationale: str, flags: Sequence[str]) -> None:
    allowed = {"tie": project.allow_tie, "both_bad": project.allow_both_bad, "skip": project.allow_skip}
    if not allowed.get(choice, True):
        raise Invalid(
            f"This project doesn't allow “{choice.replace('_', ' ')}”.", "Pick one of the answers.", field="choice"
        )
    if strength is not None and strength not in (1, 2, 3):
        raise Invalid(
            f"Strength is {strength}.", "Choose 1 (slightly better), 2 (clearly) or 3 (far).", field="strength"
        )
    if len(rationale) > LONGEST_RATIONALE:
        raise Invalid(
            f"The reason is {len(rationale):,} characters long.",
            f"Keep it to {LONGEST_RATIONALE:,}.",
            field="rationale",
        )
    if "\0" in rationale:
        raise Invalid("The reason contains a NUL character.", "Remove it.", field="rationale")
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise Invalid(f"“{unknown[0][:40]}” isn't a flag.", f"Choose among {', '.join(FLAGS)}.", field="flags")


def _settle_slot(
    session: Session, showing: Showing, user: User, token: str, now: datetime, *, skipped: bool
) -> Slot | None:
    """Fills this person's slot, or one that is free; None where there is none, or where a skip opens theirs again.

    All slots of the comparison are locked in one order, so that two people can't deadlock over them.
    """
    slots = list(
        session.scalars(
            select(Slot)
            .where(Slot.comparison_id == showing.comparison_id)
            .order_by(Slot.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    )
    mine = [slot for slot in slots if slot.holder_id == user.id]
    if skipped:
        for slot in mine:
            for key, value in comparisons.OPENED.items():
                setattr(slot, key, value)
        return None
    free = [
        slot
        for slot in slots
        if slot.state is SlotState.OPEN
        or (slot.state is SlotState.LEASED and slot.leased_until is not None and slot.leased_until < now)
    ]
    filled = next(iter(mine + sorted(free, key=lambda slot: slot.ordinal)), None)
    if filled is not None:
        filled.state, filled.holder_id, filled.lease_token, filled.leased_until = SlotState.DONE, user.id, token, None
        session.flush()
    return filled


def reopen(session: Session, *, judgment: Judgment, user: User, now: datetime | None = None) -> Lease:
    """Shows a judged pair again, on the same sides. Submitting the lease's token supersedes the judgment; leaving
    it keeps it. Raises NotFound for other people's judgments, Conflict for one that is superseded or imported."""
    comparisons.one_at_a_time(session, user)
    session.refresh(judgment)
    if judgment.user_id != user.id:
        raise NotFound("This judgment isn't yours.", "Look at your history.")
    if judgment.superseded:
        raise Conflict("This judgment was changed since.", "Reload your history.")
    answered = aliased(Judgment)
    showing = session.scalar(
        select(Showing)
        .where(Showing.edits_id == judgment.id, ~exists().where(answered.lease_token == Showing.token))
        .limit(1)
    )
    if showing is None:
        project = session.get_one(Project, judgment.project_id)
        showing = Showing(
            token=comparisons.new_token(),
            comparison_id=judgment.comparison_id,
            user_id=user.id,
            first_side=judgment.first_side or Side.LEFT,
            shown_at=now or utc_now(),
            guideline_version=project.guideline_version,
            edits_id=judgment.id,
        )
        session.add(showing)
        session.flush()
    return comparisons.as_lease(session, showing, None, judgment)


def reopen_last(session: Session, *, project: Project, user: User, now: datetime | None = None) -> Lease | None:
    """Undo: this person's latest judgment in the project, shown again; None where there is none."""
    comparisons.one_at_a_time(session, user)
    last = session.scalar(
        select(Judgment)
        .where(
            Judgment.project_id == project.id,
            Judgment.user_id == user.id,
            ~Judgment.superseded,
            Judgment.source != JudgmentSource.IMPORT,
        )
        .order_by(Judgment.submitted_at.desc(), Judgment.id.desc())
        .limit(1)
    )
    return reopen(session, judgment=last, user=user, now=now) if last else None


def get(session: Session, judgment_id: int, *, user: User) -> Judgment:
    """One of this person's judgments. Raises NotFound."""
    judgment = session.scalar(select(Judgment).where(Judgment.id == judgment_id, Judgment.user_id == user.id))
    if judgment is None:
        raise NotFound("There is no such judgment of yours.", "Look at your history.")
    return judgment


def of_comparison(session: Session, comparison_id: int) -> list[Judgment]:
    """All judgments of a comparison with their makers, superseded ones too, the oldest first."""
    return list(
        session.scalars(
            select(Judgment)
            .where(Judgment.comparison_id == comparison_id)
            .options(joinedload(Judgment.user))
            .order_by(Judgment.id)
        )
    )


def progress(session: Session, *, project: Project, user: User, now: datetime | None = None) -> Progress:
    """Counts for the desk. A day starts at midnight in `now`'s zone, by default the server's."""
    now = now or utc_now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    made = (
        select(func.count())
        .select_from(Judgment)
        .where(
            Judgment.project_id == project.id,
            Judgment.user_id == user.id,
            ~Judgment.superseded,
            Judgment.source != JudgmentSource.IMPORT,
        )
    )
    today = made.where(Judgment.submitted_at >= midnight, Judgment.submitted_at < midnight + timedelta(days=1))
    states = dict(
        session.execute(select(Slot.state, func.count()).where(Slot.project_id == project.id).group_by(Slot.state))
        .tuples()
        .all()
    )
    return Progress(
        today=session.scalar(today) or 0,
        goal=project.daily_goal,
        mine=session.scalar(made) or 0,
        done=states.get(SlotState.DONE, 0),
        wanted=sum(states.values()),
        waiting_for_me=_waiting_for(session, project, user, now),
    )


def _waiting_for(session: Session, project: Project, user: User, now: datetime) -> int:
    """Comparisons with a free slot, or held by this person, that they haven't judged."""
    free = or_(
        Slot.state == SlotState.OPEN,
        (Slot.state == SlotState.LEASED) & or_(Slot.leased_until < now, Slot.holder_id == user.id),
    )
    waiting = select(func.count(Slot.comparison_id.distinct())).where(Slot.project_id == project.id, free)
    mine = (
        select(Judgment.comparison_id)
        .where(Judgment.project_id == project.id, Judgment.user_id == user.id)
        .distinct()
        .subquery()
    )
    known = (
        select(func.count()).select_from(mine).where(exists().where(Slot.comparison_id == mine.c.comparison_id, free))
    )
    return (session.scalar(waiting) or 0) - (session.scalar(known) or 0)


def history(session: Session, *, project: Project, user: User, page: int = 1, size: int = 50) -> Page[Entry]:
    """A person's own current judgments, the latest first."""
    first, second = aliased(Response), aliased(Response)
    found = paging.fetch(
        session,
        select(Judgment, Prompt.messages, first.text, second.text)
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(Judgment.project_id == project.id, Judgment.user_id == user.id, ~Judgment.superseded)
        .order_by(Judgment.submitted_at.desc(), Judgment.id.desc()),
        page=page,
        size=size,
    )
    entries = []
    for judgment, prompt, one, other in found.items:
        left, right = (other, one) if judgment.first_side is Side.RIGHT else (one, other)
        entries.append(Entry(judgment, prompt, left, right, side_of(judgment)))
    return Page(entries, found.number, found.size, found.total)
