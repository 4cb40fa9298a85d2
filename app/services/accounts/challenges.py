"""Challenges: what a browser's passkey has to sign next. Each is for one browser, for some minutes, once.

`browser` is what only that browser has: its sign-in session, or a cookie that it got with the challenge.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, TooMany
from app.models import Passkey, PasskeyChallenge, User
from app.models.base import now as clock
from app.site.addresses import PublicAddress

LIFE = timedelta(minutes=5)
MOST = 20  # passkeys of one account
MILLISECONDS = int(LIFE.total_seconds() * 1000)
UNMATCHED = {"synchronize_session": False}
Options = dict[str, Any]  # of navigator.credentials.get() or .create(), as JSON


def to_sign_in(
    engine: Engine, *, browser: str, address: str, settings: Settings, now: datetime | None = None
) -> Options:
    """Options of a sign-in by whichever passkey the person chooses. Raises Conflict where there can be none, and TooMany."""
    import webauthn  # here, not above: few processes need it
    from webauthn.helpers.structs import UserVerificationRequirement

    host = place(settings).host
    options = webauthn.generate_authentication_options(
        rp_id=host,
        challenge=_new(engine, browser, address, settings, now or clock()),
        timeout=MILLISECONDS,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return webauthn.helpers.options_to_json_dict(options)


def to_add(
    engine: Engine, *, user_id: int, browser: str, address: str, settings: Settings, now: datetime | None = None
) -> Options:
    """Options of a new passkey. Whoever asks was proven before: the challenge stands for that. Raises Conflict and TooMany."""
    import webauthn
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    host = place(settings).host
    with read_session(engine) as session:
        user = session.get_one(User, user_id)
        theirs = session.scalars(select(Passkey).where(Passkey.user_id == user_id)).all()
    refuse_beyond_most(theirs)
    options = webauthn.generate_registration_options(
        rp_id=host,
        rp_name="Prefloop",
        user_name=user.username,
        user_display_name=user.display_name,
        user_id=handle(settings, user_id),
        challenge=_new(engine, browser, address, settings, now or clock()),
        timeout=MILLISECONDS,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[
            PublicKeyCredentialDescriptor(id=webauthn.base64url_to_bytes(row.credential_id)) for row in theirs
        ],
    )
    return webauthn.helpers.options_to_json_dict(options)


def take(engine: Engine, *, browser: str, settings: Settings, now: datetime) -> bytes | None:
    """What this browser was to sign, which nobody is asked again; None where it was taken, or is too old."""
    theirs = and_(PasskeyChallenge.browser == _hash(settings, browser), PasskeyChallenge.at > now - LIFE)
    with write_session(engine) as session:
        taken = session.scalar(
            delete(PasskeyChallenge).where(theirs).returning(PasskeyChallenge.challenge), execution_options=UNMATCHED
        )
    return bytes.fromhex(taken) if taken else None


def place(settings: Settings) -> PublicAddress:
    place = settings.public_address.for_passkeys
    if place is None:
        raise Conflict(
            f"Browsers keep no passkeys for {settings.base_url}.",
            "Whoever runs Prefloop can give it a name with TLS: PREFLOOP_PUBLIC_URL=https://…",
        )
    return place


def handle(settings: Settings, user_id: int) -> bytes:
    """What a passkey holds to say whose it is: it tells nobody else anything."""
    return bytes.fromhex(security.hash_token(settings.secret, f"passkeys of {user_id}"))


def refuse_beyond_most(theirs: Sequence[Passkey]) -> None:
    """Raises Conflict where an account can have no further passkey."""
    if len(theirs) >= MOST:
        raise Conflict(f"You have {MOST} passkeys, which is the most.", "Remove one that you don't use.")


def _new(engine: Engine, browser: str, address: str, settings: Settings, now: datetime) -> bytes:
    """32 random bytes for this browser, in place of an earlier challenge. Raises TooMany where an address holds as many as it may
    have failed sign-ins."""
    challenge, bucket = secrets.token_bytes(32), security.address_bucket(address)
    with write_session(engine) as session:
        over = or_(PasskeyChallenge.at <= now - LIFE, PasskeyChallenge.browser == _hash(settings, browser))
        session.execute(delete(PasskeyChallenge).where(over), execution_options=UNMATCHED)
        if _held(session, bucket) >= settings.login_attempts_together:
            raise TooMany(
                "Too many passkeys were asked for from here.",
                f"Wait {LIFE.seconds // 60} min, or sign in another way.",
                retry_after=LIFE.seconds,
            )
        row = PasskeyChallenge(browser=_hash(settings, browser), challenge=challenge.hex(), bucket=bucket, at=now)
        session.add(row)
    return challenge


def _held(session: Session, bucket: str) -> int:
    return session.scalar(select(func.count()).where(PasskeyChallenge.bucket == bucket)) or 0


def _hash(settings: Settings, browser: str) -> str:
    return security.hash_token(settings.secret, f"passkey challenge:{browser}")
