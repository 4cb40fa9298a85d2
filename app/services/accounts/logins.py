"""Signing in with a password and a second factor, or a passkey, and proving a password again, within limits of failures.

Works in short sessions of its own: a failure must be remembered though the request is refused, and hashing a
password (tens of milliseconds by design) must not hold SQLite's only write lock."""

import hashlib
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, WrongCredentials
from app.models import User
from app.models.base import now as clock
from app.services.accounts import attempts, audit, passkeys, second_factor, sessions, users
from app.services.accounts.passkeys import Answer, WrongPasskey
from app.services.accounts.second_factor import WrongCode, WrongFactor

CODE_SECONDS = 300  # from the password to the code
PURPOSE = "sign-in"


class CodeNeeded(WrongCredentials):
    """The password was right, and the account, `user`'s, has a second factor. `pending` stands for the password meanwhile."""

    code = "code_needed"

    def __init__(self, pending: str, user: User) -> None:
        super().__init__("This account has a second factor.", "Give it too.")
        self.pending = pending
        self.user = user


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
    tried = attempts.begin(engine, attempts.limits(username, address, settings), settings, now)
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
        attempts.forget(session, tried)
        if not fresh.has_second_factor:
            return fresh, _start(session, fresh, address, user_agent, settings, now, how="password")
    raise CodeNeeded(security.seal(settings.secret, PURPOSE, f"{user.id} {_mark(proven)}"), fresh)


def sign_in_by_passkey(
    engine: Engine,
    *,
    answer: Answer,
    address: str,
    settings: Settings,
    user_agent: str = "",
    now: datetime | None = None,
) -> tuple[User, str]:
    """The passkey's user and a new session's token: it is both factors. Raises WrongPasskey and TooMany."""
    now = now or clock()
    allowed = attempts.limits(f"passkey {answer.credential}", address, settings)
    tried = attempts.begin(engine, allowed, settings, now)
    try:
        proven = passkeys.prove(engine, answer=answer, settings=settings, now=now)
        with write_session(engine) as session:
            session.info["address"] = address
            user = passkeys.use(session, proven=proven, beside=False, now=now)
            attempts.forget(session, tried)
            return user, _start(session, user, address, user_agent, settings, now, how="passkey")
    except WrongPasskey as wrong:
        with read_session(engine) as session:
            known = session.get(User, wrong.user_id) if wrong.user_id else None
        _note_failure(engine, known, address, wrong.how, unknown="unknown passkey")
        raise


def waiting(engine: Engine, *, pending: str, settings: Settings) -> User:
    """Whose password was right a moment ago, and is still theirs. Raises WrongCredentials."""
    proven = security.unseal(settings.secret, PURPOSE, pending, seconds=CODE_SECONDS) or " "
    user_id, mark = proven.split(" ", 1)
    with read_session(engine) as session:
        user = session.get(User, int(user_id)) if user_id else None
    return _still(user, mark)


def give_second(
    engine: Engine,
    *,
    pending: str,
    code: str = "",
    answer: Answer | None = None,
    address: str,
    settings: Settings,
    user_agent: str = "",
    now: datetime | None = None,
) -> tuple[User, str]:
    """The second step of a sign-in. Raises WrongCredentials (too late, or the password changed), WrongFactor, TooMany."""
    now = now or clock()
    user = waiting(engine, pending=pending, settings=settings)
    mark = _mark(user.password_hash or "")
    how = check_second(engine, user=user, code=code, answer=answer, address=address, settings=settings, now=now)
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = _still(session.get(User, user.id), mark)
        return fresh, _start(session, fresh, address, user_agent, settings, now, how=f"password and {how}")


def check_second(
    engine: Engine,
    *,
    user: User,
    code: str = "",
    answer: Answer | None = None,
    address: str,
    settings: Settings,
    now: datetime | None = None,
) -> str:
    """Uses a code of the user's second factor up, or a passkey's answer where there is one, and returns which it was.

    Raises WrongFactor, and TooMany after as many as passwords have.
    """
    now = now or clock()
    tried = attempts.begin(engine, {f"code:{user.id}": settings.login_attempts}, settings, now)
    try:
        proven = passkeys.prove(engine, answer=answer, settings=settings, now=now) if answer else None
        if proven and proven.user_id != user.id:
            raise WrongPasskey("This passkey is another account's.")
        with write_session(engine) as session:
            session.info["address"] = address
            fresh = session.get_one(User, user.id)
            if proven:
                passkeys.use(session, proven=proven, beside=True, now=now)
            elif not second_factor.check(session, user=fresh, code=code, settings=settings, now=now):
                raise WrongCode
            attempts.forget(session, tried)
    except WrongFactor as wrong:
        _note_failure(engine, user, address, wrong.how)
        raise
    return "passkey" if proven else "code"


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
            "Sign in again, by a passkey or a new link, or set a password.",
        )
    if not password:
        raise Invalid("This needs your password.", "Nothing was changed.", field="password")
    tried = attempts.begin(engine, {f"check:{user.username}": settings.login_attempts}, settings, now)
    if not security.verify_password(password, user.password_hash):
        _note_failure(engine, user, address, "password asked again")
        raise Invalid("The password is wrong.", "Nothing was changed.", field="password")
    with write_session(engine) as session:
        attempts.forget(session, tried)


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
    tried: list[int] = []
    if proven:
        tried = attempts.begin(engine, {f"check:{user.username}": settings.login_attempts}, settings, now)
        if not security.verify_password(current, proven):
            _note_failure(engine, user, address, "password asked again")
            raise Invalid("The current password is wrong.", "Nothing was changed.")
    else:
        prove(engine, user_id=user_id, session_id=session_id, password="", address=address, settings=settings, now=now)
    try:
        hashed = users.hashed(new, user.username, user.display_name)
    except Invalid:
        with write_session(engine) as session:
            attempts.forget(session, tried)  # the current password was right
        raise
    with write_session(engine) as session:
        session.info["address"] = address
        fresh = session.get_one(User, user_id, with_for_update=True)
        if not fresh.active or fresh.password_hash != proven:
            raise Invalid("The password was changed meanwhile.", "Sign in with the new one.")
        attempts.forget(session, tried)
        users.set_password(
            session, user=fresh, password=hashed, by=fresh, keep_session_id=session_id, keep_tokens=keep_tokens
        )


def _start(
    session: Session, user: User, address: str, user_agent: str, settings: Settings, now: datetime, how: str
) -> str:
    token = sessions.start(session, user=user, address=address, user_agent=user_agent, settings=settings, now=now)
    audit.record(session, by=user, action="session.start", target=f"user {user.username}", how=how)
    return token


def _still(user: User | None, mark: str) -> User:
    """The user, if the password is still the one of `mark`. Raises WrongCredentials."""
    if user is None or not user.active or _mark(user.password_hash or "") != mark:
        raise WrongCredentials("That took too long.", "Sign in again.")
    return user


def _wrong() -> WrongCredentials:
    return WrongCredentials("User name or password is wrong.", "Try again, or ask an admin for a sign-in link.")


def _mark(password_hash: str) -> str:
    """Changes when the password does."""
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def _note_failure(
    engine: Engine, user: User | None, address: str, how: str, *, unknown: str = "unknown user name"
) -> None:
    """Into the audit trail, with the account where there is one: a name that isn't known may be a password typed wrong."""
    with write_session(engine) as session:
        session.info["address"] = address
        target = f"user {user.username}" if user else unknown
        audit.record(session, by=None, action="session.fail", target=target, how=how)
