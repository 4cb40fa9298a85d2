"""API tokens: shown once, stored as a keyed hash, acting with their owner's roles, or in fewer projects, or only reading."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session, joinedload, selectinload

from app import security
from app.config import Settings, get_settings
from app.errors import Invalid, NotFound
from app.models import ApiToken, TokenProject, User
from app.models.base import now as clock
from app.services.accounts import access, audit

TOUCH_AFTER = timedelta(minutes=1)
SHOWN = len(security.API_TOKEN_PREFIX) + 6


def create(
    session: Session,
    *,
    user: User,
    name: str,
    days: int | None = 0,
    projects: Sequence[str] | None = None,
    only_reads: bool = False,
    by: User | None = None,
    settings: Settings | None = None,
    now: datetime | None = None,
) -> tuple[ApiToken, str]:
    """The row and the full token, which nobody sees again. `days`: until it ends, 0: as many as are
    usual; None: until revoked.

    projects: the slugs of those in which alone it acts; None: wherever its owner may. Raises Invalid, and NotFound for a
    project that its owner can't see."""
    settings, now = settings or get_settings(), now or clock()
    days = settings.token_days if days == 0 else days
    name = " ".join(name.split())
    if not 1 <= len(name) <= 120 or security.has_control_characters(name):
        raise Invalid("A token needs a name of up to 120 characters.", "Name the script or machine that will use it.")
    if days is not None and not 1 <= days <= 3650:
        raise Invalid("A token lives between 1 and 3650 days.", "Choose a number in between, or none.")
    if projects is not None and not projects:
        raise Invalid("A token of no project can do nothing.", "Name at least one.", field="projects")
    caller = access.Caller.of(user)
    narrowed = {access.get(session, caller=caller, of="slug", value=slug)[0].id for slug in projects or ()}
    token = security.new_token(security.API_TOKEN_PREFIX)
    row = ApiToken(
        user_id=user.id,
        name=name,
        prefix=token[:SHOWN],
        token_hash=security.hash_token(settings.secret, token),
        created_at=now,
        expires_at=now + timedelta(days=days) if days else None,
        narrowed=projects is not None,
        only_reads=only_reads,
    )
    session.add(row)
    session.flush()
    session.add_all(TokenProject(token_id=row.id, project_id=project_id) for project_id in narrowed)
    limits = {"projects": sorted(projects or ()), "only_reads": only_reads}
    told = {name: value for name, value in limits.items() if value}
    audit.record(
        session, by=by or user, action="token.create", target=f"user {user.username}", token=row.prefix, **told
    )
    return row, token


def find(
    session: Session, *, token: str, settings: Settings | None = None, now: datetime | None = None
) -> ApiToken | None:
    """The living token with its active user, or None."""
    settings, now = settings or get_settings(), now or clock()
    if not token.startswith(security.API_TOKEN_PREFIX):
        return None
    row = session.scalar(
        select(ApiToken)
        .join(ApiToken.user)
        .options(joinedload(ApiToken.user))
        .where(
            ApiToken.token_hash == security.hash_token(settings.secret, token),
            ApiToken.revoked_at.is_(None),
            User.active,
        )
    )
    return None if row is None or (row.expires_at and row.expires_at <= now) else row


def is_stale(row: ApiToken, now: datetime | None = None) -> bool:
    return row.last_used_at is None or (now or clock()) - row.last_used_at >= TOUCH_AFTER


def touch(session: Session, *, token_id: int, now: datetime | None = None) -> None:
    """Notes a use."""
    session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id)
        .values(last_used_at=now or clock())
        .execution_options(synchronize_session=False)
    )


def listing(session: Session, *, user: User | None = None) -> Sequence[ApiToken]:
    """Newest first, owners and projects loaded: one user's tokens that aren't revoked, or with no user everybody's with the revoked."""
    loaded = (joinedload(ApiToken.user), selectinload(ApiToken.projects))
    query = select(ApiToken).options(*loaded).order_by(ApiToken.id.desc())
    if user:
        query = query.where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    return session.scalars(query).all()


def reach(row: ApiToken) -> str:
    """Where a listed token may act, in words."""
    names = ", ".join(project.slug for project in row.projects) or "no project that is left"
    return (names if row.narrowed else "all of its owner's") + (", only reads" if row.only_reads else "")


def revoke(
    session: Session, *, token_id: int, by: User | None, user: User | None = None, now: datetime | None = None
) -> None:
    """Ends a token; with `user`, only if it is theirs. Raises NotFound."""
    row = session.scalar(select(ApiToken).options(joinedload(ApiToken.user)).where(ApiToken.id == token_id))
    if row is None or (user is not None and row.user_id != user.id):
        raise NotFound("You have no such token.", "The account page and `prefloop token list` show them.")
    if row.revoked_at is None:
        row.revoked_at = now or clock()
        audit.record(session, by=by, action="token.revoke", target=f"user {row.user.username}", token=row.prefix)


def revoke_all(session: Session, *, user: User, now: datetime | None = None) -> None:
    """Ends every token of a user."""
    session.execute(
        update(ApiToken)
        .where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=now or clock())
        .execution_options(synchronize_session=False)
    )
