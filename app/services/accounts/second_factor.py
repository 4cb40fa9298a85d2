"""The second factor: a code of an authenticator app (TOTP, RFC 6238) or a passkey, or in their place a recovery code, each once.

The app's secret is kept sealed with the installation's key, the recovery codes as keyed hashes.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from app import security
from app.config import Settings, get_settings
from app.errors import Conflict, Invalid, WrongCredentials
from app.models import Passkey, RecoveryCode, User
from app.models.base import now as clock
from app.services.accounts import audit

STEP_SECONDS = 30
DRIFT = 1  # steps that an app's clock may be off
RECOVERY_CODES = 10
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without what looks alike
PURPOSE = "second factor"
RESET = "An admin can reset it, or `prefloop user reset-second-factor NAME` where Prefloop runs."


class WrongFactor(WrongCredentials):
    """What was given beside or instead of a password isn't right. `how`: what it was, for the audit trail."""

    how = "code"


class WrongCode(WrongFactor):
    code = "wrong_code"

    def __init__(self) -> None:
        super().__init__(
            "That isn't the code that your app shows now.",
            "Wait for the next one, or take a recovery code. Each works once.",
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """What goes into the authenticator app: the secret in base 32, and the same as an otpauth: address."""

    secret: str
    uri: str


def is_required(user: User, settings: Settings) -> bool:
    return user.role.value in settings.second_factor_roles.split(",")


def is_missing(user: User, settings: Settings) -> bool:
    """Whether the user's role must have a second factor, and this user has none."""
    return is_required(user, settings) and not user.has_second_factor


def begin(session: Session, *, user: User, settings: Settings | None = None) -> Setup:
    """A new secret, which counts once a code of it was given. Raises Conflict where there is one that counts."""
    import pyotp  # here, not above: few processes need it

    settings = settings or get_settings()
    if user.has_app:
        raise Conflict("An authenticator app is set up already.", "Turn it off first to move to another app.")
    secret = pyotp.random_base32()
    user.totp_secret, user.totp_step = security.seal(settings.secret, PURPOSE, secret), None
    session.flush()
    return _setup(user, secret, settings)


def pending(user: User, settings: Settings | None = None) -> Setup | None:
    """The secret that was begun with and waits for its first code."""
    settings = settings or get_settings()
    secret = None if user.has_app else _secret(user, settings)
    return _setup(user, secret, settings) if secret else None


def confirm(
    session: Session, *, user: User, code: str, settings: Settings | None = None, now: datetime | None = None
) -> list[str]:
    """From now on the app counts. Returns recovery codes in place of all earlier ones, which nobody sees again. Raises Invalid."""
    settings, now = settings or get_settings(), now or clock()
    if user.has_app:
        raise Conflict("An authenticator app is set up already.", "You need do nothing.")
    if not _is_apps_code(session, user, code, settings, now):
        raise Invalid(
            "That isn't the code that the app shows now.", "Check the clock of both devices, then type the next one."
        )
    user.totp_since = now
    codes = _new_codes(session, user, settings, now)
    audit.record(session, by=user, action="user.second_factor", target=f"user {user.username}", on=True)
    return codes


def check(
    session: Session, *, user: User, code: str, settings: Settings | None = None, now: datetime | None = None
) -> bool:
    """Whether the code is the app's of now or an unused recovery code. It is used up: of two at once one is right."""
    settings, now = settings or get_settings(), now or clock()
    if not user.has_second_factor:
        return False
    is_apps = user.has_app and _is_apps_code(session, user, code, settings, now)
    return is_apps or _is_recovery_code(session, user, code, settings, now)


def codes_left(session: Session, *, user: User) -> int:
    unused = select(func.count()).where(RecoveryCode.user_id == user.id, RecoveryCode.used_at.is_(None))
    return session.scalar(unused) or 0


def first_codes(session: Session, *, user: User, settings: Settings, now: datetime) -> list[str]:
    """Recovery codes for somebody who has none left; none otherwise."""
    return [] if codes_left(session, user=user) else _new_codes(session, user, settings, now)


def renew_codes(
    session: Session, *, user: User, settings: Settings | None = None, now: datetime | None = None
) -> list[str]:
    """New recovery codes in place of all earlier ones. Raises Conflict without a second factor."""
    if not user.has_second_factor:
        raise Conflict("You have no second factor.", "Set it up first.")
    codes = _new_codes(session, user, settings or get_settings(), now or clock())
    audit.record(session, by=user, action="user.recovery_codes", target=f"user {user.username}")
    return codes


def turn_off_app(session: Session, *, user: User, settings: Settings | None = None) -> None:
    """Ends the app by its owner's wish. Raises Conflict where it is all that they have, and their role must have one."""
    if not user.has_passkey:
        keep_one(user, settings or get_settings())
    _end_app(user)
    drop_idle_codes(session, user=user)
    audit.record(session, by=user, action="user.second_factor", target=f"user {user.username}", on=False)


def reset(session: Session, *, user: User, by: User | None, settings: Settings | None = None) -> None:
    """Ends a user's app, passkeys and recovery codes. Raises Conflict where they ask for it themselves and their role must have one."""
    if by is not None and by.id == user.id:
        keep_one(user, settings or get_settings())
    _end_app(user)
    ended = session.execute(delete(Passkey).where(Passkey.user_id == user.id).returning(Passkey.id)).all()
    session.flush()
    session.refresh(user, ["has_passkey"])
    _drop_codes(session, user)
    told = {"passkeys": len(ended)} if ended else {}
    audit.record(session, by=by, action="user.second_factor", target=f"user {user.username}", on=False, **told)


def keep_one(user: User, settings: Settings) -> None:
    """Raises Conflict where the user's role must have a second factor."""
    if is_required(user, settings):
        raise Conflict(f"Each {user.role.value} here must have a second factor.", RESET)


def drop_idle_codes(session: Session, *, user: User) -> None:
    """Recovery codes go with what they stand in for."""
    if not user.has_second_factor:
        _drop_codes(session, user)


def picture(setup: Setup) -> str:
    """The address as a QR code: a data: URI of an SVG."""
    import segno

    return str(segno.make(setup.uri, micro=False).svg_data_uri(scale=4, border=4, light="white"))


def _setup(user: User, secret: str, settings: Settings) -> Setup:
    import pyotp

    issuer = f"Prefloop ({settings.public_address.host})"
    return Setup(secret, pyotp.TOTP(secret).provisioning_uri(name=user.username, issuer_name=issuer))


def _end_app(user: User) -> None:
    user.totp_secret = user.totp_since = user.totp_step = None


def _secret(user: User, settings: Settings) -> str | None:
    return security.unseal(settings.secret, PURPOSE, user.totp_secret) if user.totp_secret else None


def _is_apps_code(session: Session, user: User, code: str, settings: Settings, now: datetime) -> bool:
    import pyotp

    secret, digits = _secret(user, settings), "".join(code.split())
    if secret is None or len(digits) != 6 or not (digits.isascii() and digits.isdigit()):
        return False
    present = int(now.timestamp()) // STEP_SECONDS
    steps = range(present - DRIFT, present + DRIFT + 1)
    app = pyotp.TOTP(secret)
    step = next((step for step in steps if secrets.compare_digest(app.generate_otp(step), digits)), None)
    if step is None:
        return False
    used = update(User).where(User.id == user.id, or_(User.totp_step.is_(None), User.totp_step < step))
    done = session.execute(used.values(totp_step=step).returning(User.id).execution_options(synchronize_session=False))
    if done.first() is None:
        return False
    session.refresh(user, ["totp_step"])
    return True


def _is_recovery_code(session: Session, user: User, code: str, settings: Settings, now: datetime) -> bool:
    used = (
        update(RecoveryCode)
        .where(
            RecoveryCode.user_id == user.id,
            RecoveryCode.code_hash == _hash(settings, user, code),
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=now)
        .returning(RecoveryCode.id)
        .execution_options(synchronize_session=False)
    )
    if session.execute(used).first() is None:
        return False
    audit.record(session, by=user, action="user.recovery_code", target=f"user {user.username}")
    return True


def _hash(settings: Settings, user: User, code: str) -> str:
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    return security.hash_token(settings.secret, f"recovery:{user.id}:{plain}")


def _new_codes(session: Session, user: User, settings: Settings, now: datetime) -> list[str]:
    _drop_codes(session, user)
    codes = []
    for _ in range(RECOVERY_CODES):
        letters = "".join(secrets.choice(ALPHABET) for _ in range(12))
        codes.append(f"{letters[:4]}-{letters[4:8]}-{letters[8:]}")
    session.add_all(
        RecoveryCode(user_id=user.id, code_hash=_hash(settings, user, code), created_at=now) for code in codes
    )
    session.flush()
    return codes


def _drop_codes(session: Session, user: User) -> None:
    session.execute(
        delete(RecoveryCode).where(RecoveryCode.user_id == user.id).execution_options(synchronize_session=False)
    )
