"""Judgments: recorded once, edited by superseding. The rows are their own history, so no audit entries repeat them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, bindparam, select, update
from sqlalchemy.orm import Session, aliased

from app.errors import Conflict, Invalid, NotFound
from app.models import Choice, Comparison, Judgment, JudgmentSource, Project, Showing, Side, User
from app.models.base import insert_row
from app.models.base import now as utc_now
from app.services.accounts import access
from app.services.collecting import counts, desk, slots, typed_text

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

SAME, CURRENT = aliased(Judgment), aliased(Judgment)
# The showing behind a token of this person's, its project, the ids of the judgment that has the token already and of their current one.
ASKED = (
    select(Showing, Comparison.project_id, SAME.id, CURRENT.id)
    .join(Comparison, Comparison.id == Showing.comparison_id)
    .outerjoin(SAME, SAME.lease_token == Showing.token)
    .outerjoin(
        CURRENT,
        (CURRENT.comparison_id == Showing.comparison_id) & (CURRENT.user_id == Showing.user_id) & ~CURRENT.superseded,
    )
    .where(Showing.token == bindparam("token"), Showing.user_id == bindparam("user"))
)


@dataclass(frozen=True)
class Said:
    """What somebody says of a pair, in terms of its answers."""

    choice: Choice
    strength: int | None
    rationale: str
    flags: list[str]

    def is_in(self, judgment: Judgment) -> bool:
        """Whether a judgment says the same."""
        return self == Said(judgment.choice, judgment.strength, judgment.rationale, judgment.flags)


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
    project: Project | None = None,
    among: ColumnElement[bool] | None = None,
    now: datetime | None = None,
) -> Judgment:
    """Stores what a person says of the pair that `token` shows them. The same submission again returns the same row.

    project: the one that the pair must be of. among: a condition on its Project, as for `desk.showing_of`.
    strength: 1 slightly, 2 clearly, 3 far better; kept for `left` and `right` only.
    Raises NotFound for somebody else's token, Conflict where the token has another answer already
    or the project is archived, Invalid otherwise.
    """
    now = now or utc_now()
    slots.one_at_a_time(session, user)
    query = ASKED if among is None else ASKED.join(Project, Project.id == Comparison.project_id).where(among)
    asked = None if "\0" in token else session.execute(query, {"token": token, "user": user.id}).one_or_none()
    if asked is None or (project is not None and asked.project_id != project.id):
        raise desk.not_yours()
    showing, project_id, recorded_id, previous_id = asked
    recorded, previous = (session.get_one(Judgment, id_) if id_ else None for id_ in (recorded_id, previous_id))
    if choice not in SIDE_CHOICES:
        raise Invalid(
            f"“{str(choice)[:40]}” isn't a choice.", f"Choose one of {', '.join(SIDE_CHOICES)}.", field="choice"
        )
    said = Said(
        choice=choice_on(showing.first_side, choice),
        strength=strength if choice in ("left", "right") else None,
        rationale=rationale.strip(),
        flags=sorted(set(flags)),
    )
    if recorded is not None:
        if not said.is_in(recorded):
            raise Conflict(
                "This pair has another judgment of yours already.", "Undo it to change it.", judgment_id=recorded.id
            )
        return recorded
    project = project or session.get_one(Project, project_id)
    access.require_open(project)
    _check(project, choice, strength, said)
    if previous is not None and said.is_in(previous):
        return previous  # looked at again and left as it was
    slot_id, is_offered = _fill_or_open(session, showing, project_id, user, now, skipped=said.choice is Choice.SKIP)
    if previous is not None:
        session.execute(update(Judgment).where(Judgment.id == previous.id).values(superseded=True))
    judgment = Judgment(
        project_id=project.id,
        comparison_id=showing.comparison_id,
        slot_id=slot_id,
        user_id=user.id,
        choice=said.choice,
        strength=said.strength,
        rationale=said.rationale,
        flags=said.flags,
        first_side=showing.first_side,
        shown_at=showing.shown_at,
        submitted_at=now,
        guideline_version=showing.guideline_version,
        lease_token=token,
        source=source,
        late=slot_id is None and said.choice is not Choice.SKIP,
        superseded=False,
        supersedes_id=previous.id if previous else None,
    )
    insert_row(session, judgment)
    counts.note(
        session,
        project_id=project.id,
        user_id=user.id,
        stored=1,
        judgments=previous is None,
        imported=-1 if previous is not None and previous.source is JudgmentSource.IMPORT else 0,
        known_offered=previous is None and is_offered,
    )
    return judgment


def get(session: Session, judgment_id: int, *, user: User) -> Judgment:
    """One of this person's judgments. Raises NotFound."""
    judgment = session.scalar(select(Judgment).where(Judgment.id == judgment_id, Judgment.user_id == user.id))
    if judgment is None:
        raise NotFound("There is no such judgment of yours.", "Look at your history.")
    return judgment


def _check(project: Project, choice: SideChoice, strength: int | None, said: Said) -> None:
    allowed = {"tie": project.allow_tie, "both_bad": project.allow_both_bad, "skip": project.allow_skip}
    if not allowed.get(choice, True):
        raise Invalid(
            f"This project doesn't allow “{choice.replace('_', ' ')}”.", "Pick one of the answers.", field="choice"
        )
    if strength is not None and strength not in (1, 2, 3):
        raise Invalid(
            f"Strength is {strength}.", "Choose 1 (slightly better), 2 (clearly) or 3 (far).", field="strength"
        )
    typed_text.check(said.rationale, what="reason", field="rationale", longest=LONGEST_RATIONALE)
    unknown = [flag for flag in said.flags if flag not in FLAGS]
    if unknown:
        raise Invalid(f"“{unknown[0][:40]}” isn't a flag.", f"Choose among {', '.join(FLAGS)}.", field="flags")


def _fill_or_open(
    session: Session, showing: Showing, project_id: int, user: User, now: datetime, *, skipped: bool
) -> tuple[int | None, bool]:
    """(the slot that the judgment fills, whether another is open now). No slot where none is left, or where a skip opens this
    person's again."""
    comparison_id = showing.comparison_id
    if skipped:
        changed = slots.open_again(session, project_id=project_id, comparison_id=comparison_id, user=user, now=now)
        return None, bool(changed.offered)
    changed = slots.settle(session, project_id=project_id, comparison_ids=[comparison_id], user=user, now=now)
    return changed.slots.get(comparison_id), bool(changed.offered)
