"""The desk: one pair before one person, and the way back to a pair that they have judged."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, bindparam, exists, select
from sqlalchemy.orm import Session, aliased

from app.db import connection_of
from app.errors import Conflict, NotFound
from app.models import Comparison, Judgment, JudgmentSource, Project, Prompt, Response, Showing, Side, User
from app.models.base import insert_row
from app.models.base import now as utc_now
from app.services.collecting import places, slots
from app.services.collecting.blind import looks
from app.services.collecting.blind import slots as blind_slots
from app.services.collecting.messages import Message
from app.services.collecting.places import Waiting

FIRST, SECOND = aliased(Response), aliased(Response)
# Built once, for every request asks it. Sources are never read.
TEXTS = (
    select(Prompt.messages, FIRST.text, SECOND.text)
    .select_from(Comparison)
    .join(Prompt, Prompt.id == Comparison.prompt_id)
    .join(FIRST, FIRST.id == Comparison.first_response_id)
    .join(SECOND, SECOND.id == Comparison.second_response_id)
    .where(Comparison.id == bindparam("comparison"))
)


@dataclass(frozen=True)
class ShownPair:
    """A pair as one person sees it. Nothing in it says who wrote which answer. `leased_until`: until then nobody
    else gets this place. A pair that is judged again has no such end, and `previous`, the judgment to be replaced."""

    token: str
    comparison_id: int
    prompt: list[Message]
    left: str
    right: str
    leased_until: datetime | None
    guideline_version: int
    previous: Judgment | None = None


def show_next(session: Session, *, project: Project, user: User, now: datetime | None = None) -> ShownPair | None:
    """The pair that this person judges next; None where nothing waits for them, or the project is archived. Who asks again before judging,
    from whatever tab, gets the same pair with the same sides."""
    if project.archived_at is not None:
        return None
    now = now or utc_now()
    slots.one_at_a_time(session, user)
    until = now + timedelta(seconds=project.lease_seconds)
    waiting = places.look(session, project=project, user=user, now=now)
    showing = _held(session, waiting, user, until) or _fresh(session, waiting, project, user, now, until)
    if showing is None:
        return None
    if showing.guideline_version != project.guideline_version:
        showing.guideline_version = project.guideline_version
        session.flush()
    return _pair(session, showing, until)


def showing_of(session: Session, *, token: str, user: User, among: ColumnElement[bool] | None = None) -> Showing:
    """The showing behind a token. `among`: the condition on its Project, such as that the person is still in it.
    Raises NotFound for a token that isn't this person's or doesn't meet it."""
    showing = None
    if "\0" not in token:
        query = select(Showing).where(Showing.token == token, Showing.user_id == user.id)
        if among is not None:
            query = query.join(Comparison, Comparison.id == Showing.comparison_id)
            query = query.join(Project, Project.id == Comparison.project_id).where(among)
        showing = session.scalar(query)
    if showing is None:
        raise not_yours()
    return showing


def not_yours() -> NotFound:
    return NotFound("This pair isn't yours to judge, or its token is wrong.", "Ask for the next pair.")


def release(
    session: Session,
    *,
    token: str,
    user: User,
    among: ColumnElement[bool] | None = None,
    now: datetime | None = None,
) -> bool:
    """Gives a leased pair back unjudged; False where it wasn't held any more. Raises NotFound as `showing_of`."""
    slots.one_at_a_time(session, user)
    showing = showing_of(session, token=token, user=user, among=among)
    at = session.get_one(Comparison, showing.comparison_id)
    opened = slots.open_again(
        session, project_id=at.project_id, comparison_id=at.id, user=user, now=now or utc_now(), token=token
    )
    return bool(opened.slots)


def undo(session: Session, *, project: Project, user: User, now: datetime | None = None) -> ShownPair | None:
    """Shows this person's latest judgment in the project again; None where there is none."""
    slots.one_at_a_time(session, user)
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


def reopen(session: Session, *, judgment: Judgment, user: User, now: datetime | None = None) -> ShownPair:
    """Shows a judged pair again, on the same sides. Submitting its token supersedes the judgment; leaving it keeps it.
    Raises NotFound for other people's judgments, Conflict for one that is superseded."""
    slots.one_at_a_time(session, user)
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
            token=new_token(),
            comparison_id=judgment.comparison_id,
            user_id=user.id,
            first_side=judgment.first_side or Side.LEFT,
            shown_at=now or utc_now(),
            guideline_version=project.guideline_version,
            edits_id=judgment.id,
        )
        session.add(showing)
        session.flush()
    return _pair(session, showing, None, judgment)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def _held(session: Session, waiting: Waiting, user: User, until: datetime) -> Showing | None:
    """What this person was shown and hasn't judged, its lease renewed."""
    token = slots.renew(session, slot_id=waiting.held, user=user, until=until) if waiting.held else None
    return session.scalar(select(Showing).where(Showing.token == token)) if token else None


def _fresh(
    session: Session, waiting: Waiting, project: Project, user: User, now: datetime, until: datetime
) -> Showing | None:
    """A pair that this person hasn't seen, on sides that are drawn now."""
    token = new_token()
    comparison_id = None
    for evaluation_id in looks.turns(session, project_id=project.id) if waiting.asking else (None,):
        comparison_id = (
            slots.take(session, waiting, project=project, user=user, token=token, now=now, until=until)
            if evaluation_id is None
            else blind_slots.take(session, evaluation_id=evaluation_id, user=user, token=token, now=now, until=until)
        )
        if comparison_id is not None:
            break
    if comparison_id is None:
        return None
    first_side = secrets.choice((Side.LEFT, Side.RIGHT))
    showing = Showing(
        token=token,
        comparison_id=comparison_id,
        user_id=user.id,
        shown_at=now,
        first_side=first_side,
        guideline_version=project.guideline_version,
    )
    insert_row(session, showing)
    return showing


def _pair(session: Session, showing: Showing, until: datetime | None, previous: Judgment | None = None) -> ShownPair:
    """A showing with its texts, each answer on its side."""
    prompt, left, right = connection_of(session).execute(TEXTS, {"comparison": showing.comparison_id}).one()
    if showing.first_side is Side.RIGHT:
        left, right = right, left
    return ShownPair(
        showing.token, showing.comparison_id, prompt, left, right, until, showing.guideline_version, previous
    )
