"""People and how they prove who they are. Nothing secret is stored in the clear."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, exists
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from app.models.base import Base, now, string_enum
from app.models.passkey import Passkey

if TYPE_CHECKING:
    from app.models.project import Project


class Role(StrEnum):
    ADMIN = "admin"
    ENGINEER = "engineer"
    EVALUATOR = "evaluator"


class User(Base):
    """An account. `username` is lower case; without `password_hash` only links sign in.

    An imported rater is a person whose votes came with a file: they have a name, and never an account.
    `totp_secret`: the sealed secret of its second factor, which counts from `totp_since` on; `totp_step` is the last
    time step (of 30 s since 1970) whose code was used, so that none is used twice. Since `erased_at` nothing says who it was.
    """

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("NOT is_imported OR (NOT active AND password_hash IS NULL)", name="is_imported"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    display_name: Mapped[str] = mapped_column(String(120))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    role: Mapped[Role] = mapped_column(string_enum(Role, "role"))
    active: Mapped[bool] = mapped_column(default=True)
    totp_secret: Mapped[str | None] = mapped_column(String(255))
    totp_since: Mapped[datetime | None]
    totp_step: Mapped[int | None] = mapped_column(BigInteger)
    is_demo: Mapped[bool] = mapped_column(default=False)
    is_imported: Mapped[bool] = mapped_column(default=False)
    erased_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_seen_at: Mapped[datetime | None]
    has_passkey: Mapped[bool] = column_property(
        exists().where(Passkey.user_id == id).correlate_except(Passkey),
        expire_on_flush=False,  # it changes with passkeys, not with the row
    )

    @property
    def has_app(self) -> bool:
        """Whether an authenticator app is set up."""
        return self.totp_since is not None

    @property
    def has_second_factor(self) -> bool:
        return self.has_app or self.has_passkey


class RecoveryCode(Base):
    """Stands in once for a code of the app or for a passkey; stored as a keyed hash."""

    __tablename__ = "recovery_codes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    used_at: Mapped[datetime | None]


class UserSession(Base):
    """One signed-in browser; the cookie's token is stored as a keyed hash."""

    __tablename__ = "sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_agent: Mapped[str] = mapped_column(String(255), default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_used_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise")


class ApiToken(Base):
    """A Bearer token for scripts: shown once, stored as a keyed hash, acts with its owner's roles.

    `narrowed`: only in the projects of `projects`, even if none of them is left. `only_reads`: it changes nothing.
    """

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    prefix: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    narrowed: Mapped[bool] = mapped_column(default=False)
    only_reads: Mapped[bool] = mapped_column(default=False)

    user: Mapped[User] = relationship(lazy="raise")
    projects: Mapped[list["Project"]] = relationship(
        secondary="token_projects", order_by="Project.slug", viewonly=True, lazy="raise"
    )


class LinkKind(StrEnum):
    SIGN_IN = "sign_in"
    INVITATION = "invitation"


class Link(Base):
    """A one-use link: a sign-in link names its user, an invitation the role that its taker gets."""

    __tablename__ = "links"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[LinkKind] = mapped_column(string_enum(LinkKind, "kind"))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    role: Mapped[Role | None] = mapped_column(string_enum(Role, "role"))
    note: Mapped[str] = mapped_column(String(120), default="")
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class LoginAttempt(Base):
    """A failed sign-in, kept for the login window. `bucket`: what is counted together, such as `ip:…`."""

    __tablename__ = "login_attempts"
    __table_args__ = (Index("ix_login_attempts_bucket_at", "bucket", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime] = mapped_column(default=now)
