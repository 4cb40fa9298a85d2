"""Who did what to which row, when."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import paging
from app.models import AuditEntry, User


def record(session: Session, /, *, by: User | None, action: str, target: str, **detail: object) -> AuditEntry:
    """Writes one entry in the caller's transaction. `action` is `noun.verb`. The address is the request's, if any."""
    entry = AuditEntry(
        user_id=by.id if by else None,
        action=action,
        target=target[:120],
        detail=detail,
        address=str(session.info.get("address", ""))[:64],
    )
    session.add(entry)
    return entry


def listing(
    session: Session,
    *,
    username: str = "",
    action: str = "",
    target: str = "",
    since: datetime | None = None,
    page: int = 1,
) -> paging.Page[tuple[AuditEntry, str | None]]:
    """Entries with the user name of whoever did it, newest first: of exactly this `username`, with an `action` that
    starts so (`job` or `job.cancel`), with these words in `target`."""
    query = select(AuditEntry, User.username).outerjoin(User, User.id == AuditEntry.user_id)
    if username:
        query = query.where(User.username == username.strip().lower())
    if action:
        query = query.where(AuditEntry.action.startswith(action, autoescape=True))
    if target:
        query = query.where(AuditEntry.target.icontains(target, autoescape=True))
    if since:
        query = query.where(AuditEntry.at >= since)
    return paging.fetch(session, query.order_by(AuditEntry.id.desc()), page=page)


def actions(session: Session) -> list[str]:
    """Every action that was ever recorded, for the filter."""
    return list(session.scalars(select(AuditEntry.action).distinct().order_by(AuditEntry.action)))
