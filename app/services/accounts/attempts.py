"""Failed sign-ins, counted for as long as the login window is: few for an account, more for an address."""

from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import TooMany
from app.models import LoginAttempt

Limits = dict[str, int]


def limits(username: str, address: str, settings: Settings) -> Limits:
    """Few for an account from one address, so that nobody else can lock it; more for all from one address, and for one
    account from everywhere."""
    place = security.address_bucket(address)
    return {
        f"{place} {username}"[:128]: settings.login_attempts,
        f"ip:{place}": settings.login_attempts_together,
        f"user:{username}": settings.login_attempts_together,
    }


def begin(engine: Engine, allowed: Limits, settings: Settings, now: datetime) -> list[int]:
    """Counts this attempt as failed until it succeeds: parallel guesses are counted before any is checked.

    allowed: how many failures each bucket may have. Returns what `forget` takes. Raises TooMany.
    """
    window = timedelta(minutes=settings.login_window_minutes)
    with write_session(engine) as session:
        session.execute(
            delete(LoginAttempt).where(LoginAttempt.at <= now - window).execution_options(synchronize_session=False)
        )
        rows = [LoginAttempt(bucket=bucket, at=now) for bucket in allowed]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    try:
        with read_session(engine) as session:
            _refuse_beyond(session, allowed, settings, now)
    except TooMany:
        with write_session(engine) as session:
            forget(session, ids)  # refused attempts don't count, or a limit would never end
        raise
    return ids


def _refuse_beyond(session: Session, allowed: Limits, settings: Settings, now: datetime) -> None:
    window = timedelta(minutes=settings.login_window_minutes)
    counted = session.execute(
        select(LoginAttempt.bucket, func.count(), func.min(LoginAttempt.at))
        .where(LoginAttempt.bucket.in_(allowed), LoginAttempt.at > now - window)
        .group_by(LoginAttempt.bucket)
    ).tuples()
    over = [(oldest, allowed[bucket]) for bucket, count, oldest in counted if count > allowed[bucket]]
    if over:
        oldest, most = max(over)
        wait = max(1, int((oldest + window - now).total_seconds()))
        raise TooMany(
            f"Too many failed sign-ins: {most} are allowed in {settings.login_window_minutes} minutes.",
            f"Wait {-(-wait // 60)} min, or use a sign-in link.",
            retry_after=wait,
        )


def forget(session: Session, attempts: list[int]) -> None:
    """They succeeded."""
    session.execute(
        delete(LoginAttempt).where(LoginAttempt.id.in_(attempts)).execution_options(synchronize_session=False)
    )
