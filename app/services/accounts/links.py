"""One-use links: they sign a known person in, or invite a new one."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import security
from app.config import Settings, get_settings
from app.errors import Conflict, Gone, Invalid, NotFound
from app.models import Link, LinkKind, ProjectRole, Role, User
from app.models.base import now as clock
from app.services.accounts import audit, members, users

ASK_AGAIN = "Ask an admin for a new one, or run `prefloop user link NAME` where Prefloop runs."


class LinkUsed(Gone):
    """`user_id`: who was signed in by it, None for an invitation."""

    code = "link_used"

    def __init__(self, user_id: int | None) -> None:
        super().__init__("This link has been used; each works once.", ASK_AGAIN)
        self.user_id = user_id


def create_sign_in(
    session: Session,
    *,
    user: User,
    by: User | None = None,
    settings: Settings | None = None,
    now: datetime | None = None,
) -> str:
    """The token of a link that signs `user` in once. It replaces earlier ones that weren't used."""
    settings, now = settings or get_settings(), now or clock()
    if not user.active:
        raise Conflict(f"{user.display_name} is deactivated.", "Reactivate the account first.")
    session.execute(
        update(Link)
        .where(Link.user_id == user.id, Link.used_at.is_(None), Link.revoked_at.is_(None))
        .values(revoked_at=now)
        .execution_options(synchronize_session=False)
    )
    token = _add(
        session, settings, now, timedelta(minutes=settings.link_minutes), by, kind=LinkKind.SIGN_IN, user_id=user.id
    )
    audit.record(session, by=by, action="link.create", target=f"user {user.username}")
    return token


def invite(
    session: Session,
    *,
    role: Role | str,
    by: User | None,
    note: str = "",
    projects: Mapping[str, ProjectRole] | None = None,
    settings: Settings | None = None,
    now: datetime | None = None,
) -> str:
    """The token of a link whose taker chooses a user name and gets `role`. `note`: for whom it is; `projects`: what they
    become in which, by slug. Raises NotFound."""
    settings, now = settings or get_settings(), now or clock()
    role, note = users.role_of(role), " ".join(note.split())
    if security.has_control_characters(note):
        raise Invalid("The note holds a control character.", "Type it again.")
    promised = members.promised(session, projects or {})
    token = _add(
        session,
        settings,
        now,
        timedelta(days=settings.invitation_days),
        by,
        kind=LinkKind.INVITATION,
        role=role,
        note=note[:120],
    )
    members.promise(session, token_hash=security.hash_token(settings.secret, token), promised=promised)
    told = {"projects": {slug: in_it.value for slug, in_it in projects.items()}} if projects else {}
    audit.record(
        session, by=by, action="invitation.create", target=f"invitation as {role.value}", note=note[:120], **told
    )
    return token


def url(token: str, settings: Settings | None = None) -> str:
    """The address to open. From the settings, never from a request's Host header."""
    return f"{(settings or get_settings()).base_url}/link/{token}"


def find(session: Session, *, token: str, settings: Settings | None = None, now: datetime | None = None) -> Link:
    """The link, if it can still be used. Raises NotFound, Gone."""
    settings, now = settings or get_settings(), now or clock()
    link = session.scalar(select(Link).where(Link.token_hash == security.hash_token(settings.secret, token)))
    if link is None:
        raise NotFound("This link isn't known here.", f"Check that all of it was copied. {ASK_AGAIN}")
    if link.used_at:
        raise LinkUsed(link.user_id)
    if link.revoked_at:
        raise Gone("This link was replaced by a newer one, or withdrawn.", ASK_AGAIN)
    if link.expires_at <= now:
        raise Gone("This link has expired.", ASK_AGAIN)
    return link


def use(session: Session, *, token: str, settings: Settings | None = None, now: datetime | None = None) -> User:
    """Uses a sign-in link up and returns its user. Of two at once, one gets Gone."""
    now = now or clock()
    link = find(session, token=token, settings=settings, now=now)
    if link.kind != LinkKind.SIGN_IN:
        raise NotFound("This is an invitation, not a sign-in link.", "Open it in a browser to choose a user name.")
    user = session.get(User, link.user_id)
    if user is None or not user.active:
        raise Gone("The account of this link is deactivated.", "Ask an admin.")
    _use_up(session, link, now)
    return user


def accept_invitation(
    session: Session,
    *,
    token: str,
    username: str,
    display_name: str,
    password: str | users.HashedPassword,
    settings: Settings | None = None,
    now: datetime | None = None,
) -> User:
    """Uses an invitation up and creates the account it promised. Raises Gone, Invalid, Conflict (name taken)."""
    now = now or clock()
    link = find(session, token=token, settings=settings, now=now)
    if link.kind != LinkKind.INVITATION or link.role is None:
        raise NotFound("This is a sign-in link, not an invitation.", "Open it in a browser.")
    _use_up(session, link, now)
    user = users.create(session, username=username, display_name=display_name, role=link.role, password=password)
    members.keep_promises(session, link_id=link.id, user=user, invited_by_id=link.created_by_id)
    return user


def open_invitations(session: Session, *, now: datetime | None = None) -> Sequence[Link]:
    """Invitations that somebody may still take, newest first."""
    return session.scalars(
        select(Link)
        .where(
            Link.kind == LinkKind.INVITATION,
            Link.used_at.is_(None),
            Link.revoked_at.is_(None),
            Link.expires_at > (now or clock()),
        )
        .order_by(Link.id.desc())
    ).all()


def withdraw(session: Session, *, link_id: int, by: User | None, now: datetime | None = None) -> None:
    """Ends an invitation. Raises NotFound, Conflict (it was taken in the meantime)."""
    link = session.get(Link, link_id)
    if link is None or link.kind != LinkKind.INVITATION:
        raise NotFound("There is no such invitation.", "The People page lists the open ones.")
    if link.used_at:
        raise Conflict("The invitation has been taken.", "Deactivate the account if it was the wrong person.")
    if link.revoked_at is None:
        link.revoked_at = now or clock()
        audit.record(session, by=by, action="invitation.withdraw", target=f"invitation {link.id}", note=link.note)


def _add(
    session: Session, settings: Settings, now: datetime, life: timedelta, by: User | None, **columns: object
) -> str:
    token = security.new_token()
    session.add(
        Link(
            token_hash=security.hash_token(settings.secret, token),
            created_at=now,
            expires_at=now + life,
            created_by_id=by.id if by else None,
            **columns,
        )
    )
    session.flush()
    return token


def _use_up(session: Session, link: Link, now: datetime) -> None:
    used = session.scalars(
        update(Link)
        .where(Link.id == link.id, Link.used_at.is_(None), Link.revoked_at.is_(None), Link.expires_at > now)
        .values(used_at=now)
        .returning(Link.id)
    ).first()
    if used is None:
        raise LinkUsed(link.user_id)
