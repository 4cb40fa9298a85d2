"""Passkeys (WebAuthn): a device signs a challenge for this address alone, after it checked that its owner is there.

So one passkey is both factors of a sign-in. Each challenge is for one browser, for some minutes, once.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine, select, true, update
from sqlalchemy.orm import Session

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Passkey, User
from app.models.base import now as clock
from app.services.accounts import audit, challenges, second_factor

if TYPE_CHECKING:
    from webauthn.registration.verify_registration_response import VerifiedRegistration

LONGEST = 20_000  # characters of an answer
UNMATCHED = {"synchronize_session": False}
TOO_LATE = ("That took too long, or was sent twice.", "Try again.")
UNKNOWN = "This passkey isn't known here."
NOT_RIGHT = "The passkey's answer isn't right."


class WrongPasskey(second_factor.WrongFactor):
    """`user_id`: whose passkey it claims to be, where that is known."""

    code = "wrong_passkey"

    def __init__(
        self,
        what: str,
        next_step: str = "Try again, or sign in another way.",
        *,
        user_id: int | None = None,
        how: str = "passkey",
    ) -> None:
        super().__init__(what, next_step)
        self.user_id = user_id
        self.how = how


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser's dialogue gave, as JSON, and what only that browser has: its sign-in session, or a cookie of the question."""

    text: str
    browser: str

    @property
    def credential(self) -> str:
        """A short name of the passkey that it claims to be of, for counting failures."""
        try:
            claimed = str(json.loads(self.text[:LONGEST])["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            claimed = ""
        return hashlib.sha256(claimed.encode(errors="replace")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Proven:
    """A right answer, which `use` counts: of which passkey and account, and what its counter says."""

    passkey_id: int
    user_id: int
    sign_count: int


def named(name: str) -> str:
    """A name that a passkey may have. Raises Invalid."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 120 or security.has_control_characters(name):
        raise Invalid("A passkey needs a name of up to 120 characters.", "Name the device that holds it.", field="name")
    return name


def add(
    engine: Engine,
    *,
    user_id: int,
    name: str,
    answer: Answer,
    address: str,
    settings: Settings,
    now: datetime | None = None,
) -> list[str]:
    """Keeps a new passkey. Returns recovery codes, which nobody sees again, where there were none left.

    Raises Invalid for an answer that isn't right, and Conflict for a passkey that is somebody's already.
    """
    from webauthn.helpers import bytes_to_base64url

    name, now = named(name), now or clock()
    new = _verified(engine, answer, settings, now)
    credential_id = bytes_to_base64url(new.credential_id)
    with write_session(engine) as session:
        session.info["address"] = address
        user = session.get_one(User, user_id, with_for_update=True)
        if session.scalar(select(Passkey.id).where(Passkey.credential_id == credential_id)):
            raise Conflict("This passkey is in use already.", "Take another device or key.")
        challenges.refuse_beyond_most(listing(session, user=user))
        row = Passkey(
            user_id=user_id,
            name=name,
            credential_id=credential_id,
            public_key=new.credential_public_key,
            sign_count=new.sign_count,
            created_at=now,
        )
        session.add(row)
        session.flush()
        audit.record(session, by=user, action="passkey.add", target=f"user {user.username}", passkey=row.id)
        return second_factor.first_codes(session, user=user, settings=settings, now=now)


def prove(engine: Engine, *, answer: Answer, settings: Settings, now: datetime | None = None) -> Proven:
    """Whose passkey gave a right answer to what this browser was asked. Raises WrongPasskey, and Conflict without an address."""
    import webauthn

    place = challenges.place(settings)
    challenge = challenges.take(engine, browser=answer.browser, settings=settings, now=now or clock())
    if challenge is None:
        raise WrongPasskey(*TOO_LATE)
    try:
        given = webauthn.helpers.parse_authentication_credential_json(_bounded(answer.text))
        known = Passkey.credential_id == webauthn.helpers.bytes_to_base64url(given.raw_id)
    except Exception as error:  # whatever a forged answer makes a parser stumble over
        raise WrongPasskey(NOT_RIGHT) from error
    with read_session(engine) as session:
        row = session.scalar(select(Passkey).where(known))
    if row is None or given.response.user_handle != challenges.handle(settings, row.user_id):
        raise WrongPasskey(UNKNOWN)
    try:
        right = webauthn.verify_authentication_response(
            credential=given,
            expected_challenge=challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            credential_public_key=row.public_key,
            credential_current_sign_count=-1,  # `use` compares it, where of two at once one loses
            require_user_verification=True,
        )
    except Exception as error:
        raise WrongPasskey(NOT_RIGHT, user_id=row.user_id) from error
    return Proven(row.id, row.user_id, right.new_sign_count)


def use(session: Session, *, proven: Proven, beside: bool, now: datetime | None = None) -> User:
    """Counts a use of the passkey, and returns whom it signs in. `beside`: a password or link was right too.

    Raises WrongPasskey where the account is deactivated, where the passkey doesn't sign in alone, and where its counter went
    back: then two devices have the same key.
    """
    counts = Passkey.sign_count < proven.sign_count
    if proven.sign_count == 0:  # it has no counter
        counts = Passkey.sign_count == 0
    row = session.get(Passkey, proven.passkey_id)
    user = session.get_one(User, row.user_id) if row is not None else None
    if row is None or user is None or not user.active:
        raise WrongPasskey(UNKNOWN, user_id=proven.user_id)
    if not (row.alone or beside):
        raise WrongPasskey(
            "This passkey doesn't sign in alone yet.",
            "Sign in once by your password or a sign-in link, and take the passkey as the second factor.",
            user_id=user.id,
        )
    done = session.execute(
        update(Passkey)
        .where(Passkey.id == row.id, counts, true() if beside else Passkey.alone)
        .values(sign_count=proven.sign_count, last_used_at=now or clock(), alone=True)
        .returning(Passkey.id),
        execution_options=UNMATCHED,
    )
    if done.first() is None:
        raise WrongPasskey(
            "This passkey's counter went back, as that of a copy does.",
            "Sign in another way, remove the passkey, and add it anew.",
            user_id=user.id,
            how="passkey whose counter went back",
        )
    return user


def listing(session: Session, *, user: User) -> Sequence[Passkey]:
    """A user's, the newest first."""
    return session.scalars(select(Passkey).where(Passkey.user_id == user.id).order_by(Passkey.id.desc())).all()


def remove(session: Session, *, passkey_id: int, user: User, by: User, settings: Settings) -> str:
    """Ends a passkey of `user`, and returns its name. Raises NotFound, and Conflict for one's own last second factor where the
    role must have one."""
    row = session.scalar(select(Passkey).where(Passkey.id == passkey_id, Passkey.user_id == user.id))
    if row is None:
        raise NotFound("There is no such passkey.", "The page lists those that there are.")
    if by.id == user.id and not user.has_app and len(listing(session, user=user)) == 1:
        second_factor.keep_one(user, settings)
    session.delete(row)
    session.flush()
    session.refresh(user, ["has_passkey"])
    second_factor.drop_idle_codes(session, user=user)
    audit.record(session, by=by, action="passkey.remove", target=f"user {user.username}", passkey=row.id)
    return row.name


def distrust(session: Session, *, user: User | None = None) -> None:
    """A user's passkeys, or everybody's, sign in only beside a password or link, until they did so once."""
    theirs = Passkey.user_id == user.id if user else Passkey.alone
    session.execute(update(Passkey).where(theirs).values(alone=False), execution_options=UNMATCHED)


def _bounded(text: str) -> str:
    if not text or len(text) > LONGEST:
        raise ValueError("no answer")
    return text


def _verified(engine: Engine, answer: Answer, settings: Settings, now: datetime) -> "VerifiedRegistration":
    import webauthn

    place = challenges.place(settings)
    challenge = challenges.take(engine, browser=answer.browser, settings=settings, now=now)
    if challenge is None:
        raise Invalid(*TOO_LATE)
    try:
        return webauthn.verify_registration_response(
            credential=_bounded(answer.text),
            expected_challenge=challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            require_user_verification=True,
        )
    except Exception as error:  # whatever a forged answer makes a parser stumble over
        raise Invalid(NOT_RIGHT, "Nothing was added. Try again.") from error
