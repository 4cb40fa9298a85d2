"""Signing in with a password and a code, and proving a password again, within limits of failures.

Works in short sessions of its own: a failure must be remembered though the request is refused, and hashing a
password (tens of milliseconds by design) must not hold SQLite's only write lock."""

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, TooMany, WrongCredentials
from app.models import LoginAttempt, User
from app.models.base import now as clock
from app.services.accounts import audit, second_factor, sessions, users

CODE_SECONDS = 300  # from the password to the code
PURPOSE = "sign-in"
Limits = dict[str, int]


class CodeNeeded(WrongCredentials):
    """The password was right, and the account has a second factor. `pending` stands for the password meanwhile."""

    code = "code_needed"

    def __init__(self, pending: str) -> None:
        super().__init__("This account has a second factor.", "Give the code that your app shows.")
        self.pending = pending


class WrongCode(WrongCredentials):
    code = "wrong_code"

    def __init__(self) -> None:
        super().__init__(
            "That isn't the code that your app shows now.",
            "Wait for the next one, or take a recovery code. Each works once.",
        )


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
    """The user and a new session's token. Raises WrongCredentials (the same for an unknown name), CodeNeeded, TooMany."""
    now = now or clock()
    username = users.normalized(username)[:64]
    attempts = _begin(engine, _limits(username, address, settings), settings, now)
    with read_session(engine) as session:
        user = session.scalar(select(User).where(User.username == username))
    proven = user.password_hash if user and user.active else None
    if not security.verify_password(password, proven) or user is None or proven is None:
        _note_failure(engine, user, address, "password")
        raise _wrong()
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = session.get(User, user.id)
        if fresh is None or not fresh.active or fresh.password_hash != proven:  # changed while the hash was computed
            raise _wrong()
        _forget(session, attempts)
        if not fresh.has_second_factor:
            return fresh, _start(session, fresh, address, user_agent, settings, now, how="password")
    raise CodeNeeded(security.seal(settings.secret, PURPOSE, f"{user.id} {_mark(proven)}"))


def give_code(
    engine: Engine,
    *,
    pending: str,
    code: str,
    address: str,
    settings: Settings,
    user_agent: str = "",
    now: datetime | None = None,
) -> tuple[User, str]:
    """The second step of a sign-in. Raises WrongCredentials (too late, or the password changed), WrongCode, TooMany."""
    now = now or clock()
    proven = security.unseal(settings.secret, PURPOSE, pending, seconds=CODE_SECONDS) or " "
    user_id, mark = proven.split(" ", 1)
    with read_session(engine) as session:
        user = session.get(User, int(user_id)) if user_id else None
    if user is None or not user.active or _mark(user.password_hash or "") != mark:
        raise WrongCredentials("That took too long.", "Sign in again.")
    check_code(engine, user=user, code=code, address=address, settings=settings, now=now)
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = session.get_one(User, user.id)
        if not fresh.active or _mark(fresh.password_hash or "") != mark:
            raise WrongCredentials("That took too long.", "Sign in again.")
        return fresh, _start(session, fresh, address, user_agent, settings, now, how="password and code")


def check_code(
    engine: Engine, *, user: User, code: str, address: str, settings: Settings, now: datetime | None = None
) -> None:
    """Uses a code of the user's second factor up. Raises WrongCode, and TooMany after as many as passwords have."""
    now = now or clock()
    attempts = _begin(engine, {f"code:{user.id}": settings.login_attempts}, settings, now)
    with write_session(engine) as session:
        session.info["address"] = address
        if second_factor.check(session, user=session.get_one(User, user.id), code=code, settings=settings, now=now):
            _forget(session, attempts)
            return
    _note_failure(engine, user, address, "code")
    raise WrongCode


def prove(
    engine: Engine,
    *,
    user_id: int,
    session_id: int,
    password: str,
    address: str,
    settings: Settings,
    now: datetime | None = None,
) -> None:
    """Returns if whoever uses this session signed in a moment ago, or gives the account's password. Raises Invalid and
    TooMany: a stolen session can't mint what outlives it."""
    now = now or clock()
    with read_session(engine) as session:
        user = session.get_one(User, user_id)
        is_fresh = sessions.is_fresh(session, session_id=session_id, settings=settings, now=now)
    if is_fresh:
        return
    if user.password_hash is None:
        raise Invalid(
            f"You signed in more than {settings.fresh_minutes} minutes ago, and have no password.",
            "Sign in again by a new link, or set a password.",
        )
    if not password:
        raise Invalid("This needs your password.", "Nothing was changed.", field="password")
    attempts = _begin(engine, {f"check:{user.username}": settings.login_attempts}, settings, now)
    if not security.verify_password(password, user.password_hash):
        _note_failure(engine, user, address, "password asked again")
        raise Invalid("The password is wrong.", "Nothing was changed.", field="password")
    with write_session(engine) as session:
        _forget(session, attempts)


def change_password(
    engine: Engine,
    *,
    user_id: int,
    current: str,
    new: str,
    session_id: int,
    address: str,
    settings: Settings,
    keep_tokens: bool = False,
    now: datetime | None = None,
) -> None:
    """A signed-in user's new password; every session but `session_id` ends, and every token unless they are to be kept.
    Who has a password must know it, within the account's limit of failures: a stolen session can't guess for long. Who
    has none must have signed in a moment ago. Raises TooMany and Invalid."""
    now = now or clock()
    with read_session(engine) as session:
        user = session.get_one(User, user_id)
    proven = user.password_hash
    attempts: list[int] = []
    if proven:
        attempts = _begin(engine, {f"check:{user.username}": settings.login_attempts}, settings, now)
        if not security.verify_password(current, proven):
            _note_failure(engine, user, address, "password asked again")
            raise Invalid("The current password is wrong.", "Nothing was changed.")
    else:
        prove(engine, user_id=user_id, session_id=session_id, password="", address=address, settings=settings, now=now)
    try:
        hashed = users.hashed(new, user.username, user.display_name)
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
        users.set_password(
            session, user=fresh, password=hashed, by=fresh, keep_session_id=session_id, keep_tokens=keep_tokens
        )


def _start(
    session: Session, user: User, address: str, user_agent: str, settings: Settings, now: datetime, how: str
) -> str:
    token = sessions.start(session, user=user, address=address, user_agent=user_agent, settings=settings, now=now)
    audit.record(session, by=user, action="session.start", target=f"user {user.username}", how=how)
    return token


def _wrong() -> WrongCredentials:
    return WrongCredentials("User name or password is wrong.", "Try again, or ask an admin for a sign-in link.")


def _mark(password_hash: str) -> str:
    """Changes when the password does."""
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def _note_failure(engine: Engine, user: User | None, address: str, how: str) -> None:
    """Into the audit trail, with the account where there is one: a name that isn't known may be a password typed wrong."""
    with write_session(engine) as session:
        session.info["address"] = address
        target = f"user {user.username}" if user else "unknown user name"
        audit.record(session, by=None, action="session.fail", target=target, how=how)


def _limits(username: str, address: str, settings: Settings) -> Limits:
    """Few for an account from one address, so that nobody else can lock it; more for all from one address, and for one
    account from everywhere."""
    place = security.address_bucket(address)
    return {
        f"{place} {username}"[:128]: settings.login_attempts,
        f"ip:{place}": settings.login_attempts_together,
        f"user:{username}": settings.login_attempts_together,
    }


def _begin(engine: Engine, limits: Limits, settings: Settings, now: datetime) -> list[int]:
    """Counts this attempt as failed until it succeeds: parallel guesses are counted before any is checked."""
    window = timedelta(minutes=settings.login_window_minutes)
    with write_session(engine) as session:
        session.execute(
            delete(LoginAttempt).where(LoginAttempt.at <= now - window).execution_options(synchronize_session=False)
        )
        rows = [LoginAttempt(bucket=bucket, at=now) for bucket in limits]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    try:
        with read_session(engine) as session:
            _refuse_beyond(session, limits, settings, now)
    except TooMany:
        with write_session(engine) as session:
            _forget(session, ids)  # refused attempts don't count, or a limit would never end
        raise
    return ids


def _refuse_beyond(session: Session, limits: Limits, settings: Settings, now: datetime) -> None:
    window = timedelta(minutes=settings.login_window_minutes)
    counted = session.execute(
        select(LoginAttempt.bucket, func.count(), func.min(LoginAttempt.at))
        .where(LoginAttempt.bucket.in_(limits), LoginAttempt.at > now - window)
        .group_by(LoginAttempt.bucket)
    ).tuples()
    over = [(oldest, limits[bucket]) for bucket, count, oldest in counted if count > limits[bucket]]
    if over:
        oldest, allowed = max(over)
        wait = max(1, int((oldest + window - now).total_seconds()))
        raise TooMany(
            f"Too many failed sign-ins: {allowed} are allowed in {settings.login_window_minutes} minutes.",
            f"Wait {-(-wait // 60)} min, or use a sign-in link.",
            retry_after=wait,
        )


def _forget(session: Session, attempts: list[int]) -> None:
    session.execute(
        delete(LoginAttempt).where(LoginAttempt.id.in_(attempts)).execution_options(synchronize_session=False)
    )
