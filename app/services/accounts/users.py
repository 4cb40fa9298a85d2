"""People: accounts, roles, passwords."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from app import security
from app.errors import Conflict, Invalid, NotFound
from app.models import Link, Role, User
from app.models.base import now as clock
from app.services.accounts import audit, passkeys, passwords, sessions, tokens

USERNAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class HashedPassword:
    """A password that was acceptable, as the database keeps it."""

    hash: str


def create(
    session: Session,
    *,
    username: str,
    display_name: str,
    role: Role | str,
    password: str | HashedPassword | None = None,
    is_demo: bool = False,
    by: User | None = None,
) -> User:
    """A new account. Without a password only links sign in. Raises Invalid and Conflict (name taken)."""
    username = normalized(username)
    if not USERNAME.fullmatch(username):
        raise Invalid(
            f"“{username[:64]}” can't be a user name.",
            "Use up to 64 lower-case letters, digits and . _ @ + -, beginning with a letter or digit.",
        )
    display_name = " ".join(display_name.split()) or username
    if security.has_control_characters(display_name):
        raise Invalid("The name holds a control character.", "Type it again, or leave it out.")
    if len(display_name) > 120:
        raise Invalid("The name is longer than 120 characters.", "Shorten it.")
    if session.scalar(select(User.id).where(User.username == username)):
        raise Conflict(f"The user name “{username}” is taken.", "Choose another.")
    user = User(username=username, display_name=display_name, role=role_of(role), is_demo=is_demo)
    if password is not None:
        user.password_hash = hashed(password, username, display_name).hash
    session.add(user)
    session.flush()
    audit.record(session, by=by, action="user.create", target=f"user {username}", role=user.role.value)
    return user


def normalized(username: str) -> str:
    return username.strip().lower()


def role_of(value: Role | str) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise Invalid(f"There is no role “{str(value)[:24]}”.", "Roles are admin, engineer and evaluator.") from None


def hashed(password: str | HashedPassword, username: str, *names: str) -> HashedPassword:
    """The hash of an acceptable password. Slow by design, so it is best made before a write transaction begins.

    Raises Invalid.
    """
    if isinstance(password, HashedPassword):
        return password
    return HashedPassword(passwords.hashed(password, *normalized(username).split("@")[:1], *names))


def get(session: Session, username: str) -> User:
    user = session.scalar(
        select(User).where(User.username == normalized(username), ~User.is_imported, User.erased_at.is_(None))
    )
    if user is None:
        raise NotFound(f"There is no user “{username[:64]}”.", "`prefloop user list` names all.")
    return user


def listing(session: Session) -> Sequence[User]:
    """Everybody with an account: active first, then by name."""
    with_account = select(User).where(~User.is_imported, User.erased_at.is_(None))
    return session.scalars(with_account.order_by(User.active.desc(), User.username)).all()


def has_admin(session: Session) -> bool:
    return session.scalar(_admins().limit(1)) is not None


def first_admin(session: Session) -> User:
    """The active admin who was there first. Raises NotFound."""
    admin = session.scalar(_admins().limit(1))
    if admin is None:
        raise NotFound("There is no admin account yet.", "Make one: prefloop user add NAME --role admin")
    return admin


def set_role(session: Session, *, user: User, role: Role | str, by: User | None) -> None:
    """Takes effect with the user's next request. Raises Conflict rather than leave nobody in charge."""
    role, before = role_of(role), user.role
    if role == before:
        return
    if before == Role.ADMIN:
        _keep_an_admin(session, user)
    user.role = role
    audit.record(
        session, by=by, action="user.role", target=f"user {user.username}", before=before.value, after=role.value
    )


def set_active(session: Session, *, user: User, active: bool, by: User | None) -> None:
    """Lets a user in again, or shuts them out: their sessions, tokens and links end for good, their passkeys sign in only beside
    a password or link from then on; what they did stays."""
    if user.active == active:
        return
    if not active:
        if user.role == Role.ADMIN:
            _keep_an_admin(session, user)
        passkeys.distrust(
            session, user=user
        )  # first: it waits for a sign-in by one of them, whose session then ends too
        sessions.revoke_all(session, user=user)
        tokens.revoke_all(session, user=user)
        session.execute(
            update(Link)
            .where(Link.user_id == user.id, Link.used_at.is_(None), Link.revoked_at.is_(None))
            .values(revoked_at=clock())
            .execution_options(synchronize_session=False)
        )
    user.active = active
    audit.record(
        session, by=by, action="user.reactivate" if active else "user.deactivate", target=f"user {user.username}"
    )


def set_password(
    session: Session,
    *,
    user: User,
    password: str | HashedPassword,
    by: User | None,
    keep_session_id: int | None = None,
    keep_tokens: bool = False,
) -> None:
    """Sets the password; every session but the one that asked ends, and the tokens unless they are to be kept: whoever
    stole something is out. Passkeys stay, as second factors do, and ask for the new password once."""
    user.password_hash = hashed(password, user.username).hash
    passkeys.distrust(session, user=user)
    sessions.revoke_all(session, user=user, except_id=keep_session_id)
    if not keep_tokens:
        tokens.revoke_all(session, user=user)
    audit.record(session, by=by, action="user.password", target=f"user {user.username}", tokens_kept=keep_tokens)


def _admins() -> Select[User]:
    return select(User).where(User.role == Role.ADMIN, User.active).order_by(User.id)


def _keep_an_admin(session: Session, leaving: User) -> None:
    # Locked and read anew, so that two admins who demote each other at the same moment don't both succeed.
    admins = session.scalars(_admins().with_for_update().execution_options(populate_existing=True)).all()
    if not any(admin.id != leaving.id for admin in admins):
        raise Conflict(f"{leaving.display_name} is the last admin.", "Make somebody else an admin first.")
