"""Signing in with a password and changing it, within a limit of failures per address and per account.

Works in short sessions of its own: a failure must be remembered though the request is refused, and hashing a
password (tens of milliseconds by design) must not hold SQLite's only write lock."""

from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, TooMany, WrongCredentials
from app.models import LoginAttempt, User
from app.models.base import now as clock
from app.services.accounts import audit, sessions, users


def sign_in(
    engine: Engine,
    *,
    username: str,
    password: str,
    address: str,
    settings: Settings,
    user_agent: str = "",
    now: datetime | None = None,
) -> tuple[User, str]:
    """The user and a new session's token. Raises WrongCredentials (the same for an unknown name) and TooMany."""
    now = now or clock()
    username = users.normalized(username)[:64]
    attempts = _begin(engine, [f"ip:{security.address_bucket(address)}", f"user:{username}"], settings, now)
    with read_session(engine) as session:
        user = session.scalar(select(User).where(User.username == username))
    proven = user.password_hash if user and user.active else None
    if not security.verify_password(password, proven) or user is None:
        raise WrongCredentials("User name or password is wrong.", "Try again, or ask an admin for a sign-in link.")
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = session.get(User, user.id)
        if fresh is None or not fresh.active or fresh.password_hash != proven:  # changed while the hash was computed
            raise WrongCredentials("User name or password is wrong.", "Try again, or ask an admin for a sign-in link.")
        _forget(session, attempts)
        token = sessions.start(session, user=fresh, address=address, user_agent=user_agent, settings=settings, now=now)
        audit.record(session, by=fresh, action="session.start", target=f"user {fresh.username}", how="password")
        return fresh, token


def change_password(
    engine: Engine,
    *,
    user_id: int,
    current: str,
    new: str,
    session_id: int,
    address: str,
    settings: Settings,
    now: datetime | None = None,
) -> None:
    """A signed-in user's new password; every session but `session_id` ends. Who has one must know it, within the
    account's limit of failures: a stolen session can't guess for long. Raises TooMany and Invalid."""
    now = now or clock()
    with read_session(engine) as session:
        user = session.get_one(User, user_id)
    proven = user.password_hash
    attempts = _begin(engine, [f"user:{user.username}"], settings, now) if proven else []
    if proven and not security.verify_password(current, proven):
        raise Invalid("The current password is wrong.", "Nothing was changed.")
    try:
        hashed = users.hashed(new, user.username)
    except Invalid:
        with write_session(engine) as session:
            _forget(session, attempts)  # the current password was right
        raise
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = session.get_one(User, user_id, with_for_update=True)
        if not fresh.active or fresh.password_hash != proven:
            raise Invalid("The password was changed meanwhile.", "Sign in with the new one.")
        _forget(session, attempts)
        users.set_password(session, user=fresh, password=hashed, by=fresh, keep_session_id=session_id)


def _begin(engine: Engine, buckets: list[str], settings: Settings, now: datetime) -> list[int]:
    """Counts this attempt as failed until it succeeds: parallel guesses are counted before any is checked."""
    window = timedelta(minutes=settings.login_window_minutes)
    with write_session(engine) as session:
        session.execute(
            delete(LoginAttempt).where(LoginAttempt.at <= now - window).execution_options(synchronize_session=False)
        )
        rows = [LoginAttempt(bucket=bucket, at=now) for bucket in buckets]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    try:
        with read_session(engine) as session:
            _refuse_beyond_limit(session, buckets, settings, now, allowed=settings.login_attempts)
    except TooMany:
        with write_session(engine) as session:
            _forget(session, ids)  # refused attempts don't count, or a limit would never end
        raise
    return ids


def _refuse_beyond_limit(
    session: Session, buckets: list[str], settings: Settings, now: datetime, *, allowed: int
) -> None:
    window = timedelta(minutes=settings.login_window_minutes)
    over = (
        session.execute(
            select(func.min(LoginAttempt.at))
            .where(LoginAttempt.bucket.in_(buckets), LoginAttempt.at > now - window)
            .group_by(LoginAttempt.bucket)
            .having(func.count() > allowed)
        )
        .scalars()
        .all()
    )
    if over:
        wait = max(1, int((max(over) + window - now).total_seconds()))
        raise TooMany(
            f"Too many failed sign-ins: {settings.login_attempts} are allowed in {settings.login_window_minutes} minutes.",
            f"Wait {-(-wait // 60)} min, or use a sign-in link.",
            retry_after=wait,
        )


def _forget(session: Session, attempts: list[int]) -> None:
    session.execute(
        delete(LoginAttempt).where(LoginAttempt.id.in_(attempts)).execution_options(synchronize_session=False)
    )
