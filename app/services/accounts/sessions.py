"""Signed-in browsers: each can be seen and ended."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session, contains_eager

from app import security
from app.config import Settings, get_settings
from app.errors import NotFound
from app.models import User, UserSession
from app.models.base import now as clock
from app.services.accounts import audit

TOUCH_AFTER = timedelta(minutes=1)
LIVES = (  # the session of `asked`, joined to its user
    UserSession.token_hash == bindparam("hash"),
    UserSession.revoked_at.is_(None),
    UserSession.expires_at > bindparam("now"),
    User.active,
)
# Built once, for every request asks it.
FIND = select(UserSession).join(UserSession.user).options(contains_eager(UserSession.user)).where(*LIVES)


def start(
    session: Session,
    *,
    user: User,
    address: str = "",
    user_agent: str = "",
    settings: Settings | None = None,
    now: datetime | None = None,
) -> str:
    """A new session's token, for the cookie. Never one that the browser brought along (session fixation)."""
    settings, now = settings or get_settings(), now or clock()
    token = security.new_token()
    session.add(
        UserSession(
            user_id=user.id,
            token_hash=security.hash_token(settings.secret, token),
            address=address[:64],
            user_agent=user_agent[:255],
            created_at=now,
            last_used_at=now,
            expires_at=_end(now, now, settings),
        )
    )
    user.last_seen_at = now
    session.flush()
    return token


def find(
    session: Session, *, token: str, settings: Settings | None = None, now: datetime | None = None
) -> UserSession | None:
    """The living session of a token with its active user, or None."""
    return session.scalar(FIND, asked(token, settings or get_settings(), now))


def asked(token: str, settings: Settings, now: datetime | None = None) -> dict[str, object]:
    """What LIVES is to look for."""
    return {"hash": security.hash_token(settings.secret, token), "now": now or clock()}


def is_stale(last_used_at: datetime, now: datetime | None = None) -> bool:
    """Whether a session's last use was noted so long ago that it should be noted again."""
    return (now or clock()) - last_used_at >= TOUCH_AFTER


def touch(session: Session, *, session_id: int, settings: Settings | None = None, now: datetime | None = None) -> None:
    """Notes a use and moves the end of the session, never beyond its longest life; of many at once only one writes."""
    settings, now = settings or get_settings(), now or clock()
    began = session.scalar(select(UserSession.created_at).where(UserSession.id == session_id))
    if began is None:
        return
    moved = session.execute(
        update(UserSession)
        .where(
            UserSession.id == session_id,
            UserSession.last_used_at <= now - TOUCH_AFTER,
            UserSession.revoked_at.is_(None),
        )
        .values(last_used_at=now, expires_at=_end(began, now, settings))
        .returning(UserSession.user_id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if moved is not None:
        session.execute(
            update(User).where(User.id == moved).values(last_seen_at=now).execution_options(synchronize_session=False)
        )


def _end(began: datetime, used: datetime, settings: Settings) -> datetime:
    longest = began + timedelta(days=settings.session_longest_days)
    return min(used + timedelta(days=settings.session_days), longest)


def is_fresh(
    session: Session, *, session_id: int, settings: Settings | None = None, now: datetime | None = None
) -> bool:
    """Whether whoever uses this session has just proven who they are."""
    settings, now = settings or get_settings(), now or clock()
    began = session.scalar(select(UserSession.created_at).where(UserSession.id == session_id))
    return began is not None and now - began < timedelta(minutes=settings.fresh_minutes)


def listing(session: Session, *, user: User, now: datetime | None = None) -> Sequence[UserSession]:
    """The user's living sessions, the last used first."""
    return session.scalars(
        select(UserSession)
        .where(
            UserSession.user_id == user.id, UserSession.revoked_at.is_(None), UserSession.expires_at > (now or clock())
        )
        .order_by(UserSession.last_used_at.desc(), UserSession.id.desc())
    ).all()


def revoke(
    session: Session, *, session_id: int, user: User, by: User | None = None, now: datetime | None = None
) -> None:
    """Ends one session of `user`. Raises NotFound if it isn't theirs."""
    row = session.scalar(select(UserSession).where(UserSession.id == session_id, UserSession.user_id == user.id))
    if row is None:
        raise NotFound("You have no such session.", "The account page lists yours.")
    if row.revoked_at is None:
        row.revoked_at = now or clock()
        audit.record(session, by=by or user, action="session.revoke", target=f"user {user.username}", session=row.id)


def revoke_all(
    session: Session,
    *,
    user: User,
    except_id: int | None = None,
    by: User | None = None,
    now: datetime | None = None,
) -> int:
    """Ends the user's sessions but one; returns how many. With `by`, it is somebody's own wish and is recorded."""
    rows = session.scalars(
        update(UserSession)
        .where(UserSession.user_id == user.id, UserSession.revoked_at.is_(None), UserSession.id != (except_id or 0))
        .values(revoked_at=now or clock())
        .returning(UserSession.id)
    )
    ended = len(rows.all())
    if by is not None:
        audit.record(session, by=by, action="session.revoke_all", target=f"user {user.username}", ended=ended)
    return ended
