import threading
from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from sqlalchemy import Engine, func, select

from app import security
from app.config import Settings
from app.db import is_writing, read_session, write_session
from app.errors import Invalid, TooMany, WrongCredentials
from app.models import AuditEntry, LoginAttempt, User, UserSession
from app.services.accounts import logins, second_factor, sessions, tokens, users
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


@pytest.fixture
def strict(settings: Settings) -> Settings:
    return settings.model_copy(update={"login_attempts": 3, "login_attempts_together": 3})


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


def attempt(
    engine: Engine,
    settings: Settings,
    *,
    username: str = "ada",
    password: str = "wrong",
    address: str = "192.0.2.1",
    now: datetime = NOON,
) -> tuple[User, str]:
    return logins.sign_in(engine, username=username, password=password, address=address, settings=settings, now=now)


def test_the_right_password_starts_a_session(engine: Engine, settings: Settings, ada: User) -> None:
    user, token = attempt(engine, settings, username=" ADA", password=PASSWORD)
    assert user.id == ada.id
    with read_session(engine) as session:
        assert sessions.find(session, token=token, settings=settings, now=NOON) is not None
        assert session.scalar(select(func.count()).select_from(LoginAttempt)) == 0


def test_wrong_unknown_linked_and_deactivated_are_told_the_same(
    engine: Engine, settings: Settings, ada: User, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory.user(username="linked")
    factory.user(username="gone", password=PASSWORD)
    with write_session(engine) as session:
        users.set_active(session, user=users.get(session, "gone"), active=False, by=None)
    hashed: list[str] = []
    verify = security._passwords().verify
    monkeypatch.setattr(
        security._passwords(), "verify", lambda password, known: hashed.append(known) or verify(password, known)
    )
    told = set()
    for username, password in [("ada", "wrong"), ("nobody", PASSWORD), ("linked", ""), ("gone", PASSWORD)]:
        with pytest.raises(WrongCredentials) as refused:
            attempt(engine, settings, username=username, password=password)
        told.add(str(refused.value))
    assert len(told) == 1
    # One hash of the same cost each: the time taken does not tell them apart either.
    assert len(hashed) == 4
    assert len({known.rsplit("$", 2)[0] for known in hashed}) == 1


def test_an_account_is_closed_to_guesses_from_everywhere(engine: Engine, strict: Settings, ada: User) -> None:
    for number in range(3):
        with pytest.raises(WrongCredentials):
            attempt(engine, strict, address=f"192.0.2.{number}")
    with pytest.raises(TooMany) as refused:
        attempt(engine, strict, password=PASSWORD, address="198.51.100.7")
    assert refused.value.details["retry_after"] == 15 * 60
    assert attempt(engine, strict, password=PASSWORD, now=NOON + timedelta(minutes=15))


def test_an_address_is_closed_to_guesses_at_everybody(engine: Engine, strict: Settings, ada: User) -> None:
    for number in range(3):
        with pytest.raises(WrongCredentials):
            attempt(engine, strict, username=f"user-{number}", address=f"2001:db8::{number}")
    with pytest.raises(TooMany):  # another address of the same /64
        attempt(engine, strict, password=PASSWORD, address="2001:db8::ffff")
    assert attempt(engine, strict, password=PASSWORD, address="2001:db8:0:1::1")


def test_refused_attempts_do_not_lengthen_the_wait(engine: Engine, strict: Settings, ada: User) -> None:
    for _ in range(3):
        with pytest.raises(WrongCredentials):
            attempt(engine, strict)
    for minute in range(14):
        with pytest.raises(TooMany):
            attempt(engine, strict, now=NOON + timedelta(minutes=minute))
    assert attempt(engine, strict, password=PASSWORD, now=NOON + timedelta(minutes=15))


def test_ones_own_success_does_not_pay_for_guesses_at_others(
    engine: Engine, strict: Settings, ada: User, factory: Factory
) -> None:
    factory.user(username="mallory", password=PASSWORD)
    for _ in range(2):
        with pytest.raises(WrongCredentials):
            attempt(engine, strict)
    attempt(engine, strict, username="mallory", password=PASSWORD)
    with pytest.raises(WrongCredentials):
        attempt(engine, strict)
    with pytest.raises(TooMany):
        attempt(engine, strict)


def test_parallel_guesses_are_limited_as_well(
    engine: Engine, strict: Settings, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(security, "verify_password", lambda password, _known: bool(checked.append(password)))
    barrier = threading.Barrier(12)
    outcomes: list[type[Exception]] = []

    def guess(number: int) -> None:
        barrier.wait()
        try:
            attempt(engine, strict, password=f"guess {number}", address=f"192.0.2.{number}")
        except (WrongCredentials, TooMany) as refused:
            outcomes.append(type(refused))

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 12
    assert len(checked) <= 3


def test_a_password_changed_during_the_check_signs_nobody_in(
    engine: Engine, settings: Settings, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = security.verify_password

    def change_meanwhile(password: str, known: str | None) -> bool:
        with write_session(engine) as session:
            users.set_password(session, user=users.get(session, "ada"), password="another horse battery", by=None)
        return verify(password, known)

    monkeypatch.setattr(security, "verify_password", change_meanwhile)
    with pytest.raises(WrongCredentials):
        attempt(engine, settings, password=PASSWORD)
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(UserSession)) == 0


def test_nobody_is_locked_out_by_guesses_from_elsewhere(engine: Engine, settings: Settings, ada: User) -> None:
    few = settings.model_copy(update={"login_attempts": 3, "login_attempts_together": 9})
    for _ in range(3):
        with pytest.raises(WrongCredentials):
            attempt(engine, few)
    with pytest.raises(TooMany, match="3 are allowed"):
        attempt(engine, few, password=PASSWORD)
    assert attempt(engine, few, password=PASSWORD, address="198.51.100.7")
    # The address itself may go on with others, up to a limit of its own.
    for number in range(6):
        with pytest.raises(WrongCredentials):
            attempt(engine, few, username=f"user-{number}")
    with pytest.raises(TooMany, match="9 are allowed"):
        attempt(engine, few, username="somebody")


def test_a_failed_sign_in_is_in_the_audit_trail_with_its_account(engine: Engine, settings: Settings, ada: User) -> None:
    for username in ("ada", "my password typed here"):
        with pytest.raises(WrongCredentials):
            attempt(engine, settings, username=username)
    with read_session(engine) as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "session.fail")).all()
        assert [(entry.target, entry.detail, entry.address) for entry in entries] == [
            ("user ada", {"how": "password"}, "192.0.2.1"),
            ("unknown user name", {"how": "password"}, "192.0.2.1"),
        ]


@pytest.fixture
def guarded(engine: Engine, settings: Settings, ada: User) -> pyotp.TOTP:
    """Ada's authenticator app."""
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        app = pyotp.TOTP(second_factor.begin(session, user=user, settings=settings).secret)
        before = NOON - timedelta(minutes=5)
        second_factor.confirm(session, user=user, code=app.at(before), settings=settings, now=before)
    return app


def code_for(
    engine: Engine, settings: Settings, code: str, *, pending: str = "", now: datetime = NOON
) -> tuple[User, str]:
    if not pending:
        with pytest.raises(logins.CodeNeeded) as needed:
            attempt(engine, settings, password=PASSWORD, now=now)
        pending = needed.value.pending
    return logins.give_second(engine, pending=pending, code=code, address="192.0.2.1", settings=settings, now=now)


def test_with_a_second_factor_the_password_alone_starts_nothing(
    engine: Engine, settings: Settings, guarded: pyotp.TOTP, ada: User
) -> None:
    user, token = code_for(engine, settings, guarded.at(NOON))
    assert user.id == ada.id
    with read_session(engine) as session:
        assert sessions.find(session, token=token, settings=settings, now=NOON) is not None
        assert session.scalar(select(func.count()).select_from(LoginAttempt)) == 0
    with pytest.raises(second_factor.WrongCode):  # each code works once
        code_for(engine, settings, guarded.at(NOON))
    with pytest.raises(WrongCredentials, match="took too long"):
        code_for(engine, settings, guarded.at(NOON), pending="made up")


def test_codes_cannot_be_guessed_for_long(
    engine: Engine, strict: Settings, guarded: pyotp.TOTP, factory: Factory
) -> None:
    with pytest.raises(logins.CodeNeeded) as needed:
        attempt(engine, strict, password=PASSWORD)
    for _ in range(3):
        with pytest.raises(second_factor.WrongCode):
            code_for(engine, strict, "000000", pending=needed.value.pending)
    with pytest.raises(TooMany):
        code_for(engine, strict, guarded.at(NOON), pending=needed.value.pending)
    with read_session(engine) as session:
        fails = session.scalars(select(AuditEntry.detail).where(AuditEntry.action == "session.fail")).all()
    assert fails == [{"how": "code"}] * 3


def test_a_password_changed_between_both_steps_signs_nobody_in(
    engine: Engine, settings: Settings, guarded: pyotp.TOTP
) -> None:
    with pytest.raises(logins.CodeNeeded) as needed:
        attempt(engine, settings, password=PASSWORD)
    with write_session(engine) as session:
        users.set_password(session, user=users.get(session, "ada"), password="another horse battery", by=None)
    with pytest.raises(WrongCredentials, match="took too long"):
        code_for(engine, settings, guarded.at(NOON), pending=needed.value.pending)


def prove(engine: Engine, settings: Settings, user: User, password: str, *, now: datetime = NOON) -> None:
    with write_session(engine) as session:
        sessions.start(session, user=session.merge(user), settings=settings, now=NOON)
        number = session.scalars(select(func.max(UserSession.id))).one()
    logins.prove(
        engine,
        user_id=user.id,
        session_id=number,
        password=password,
        address="192.0.2.1",
        settings=settings,
        now=now,
    )


def test_who_signed_in_long_ago_gives_the_password_again(
    engine: Engine, strict: Settings, ada: User, factory: Factory
) -> None:
    prove(engine, strict, ada, "")
    later = NOON + timedelta(minutes=strict.fresh_minutes)
    with pytest.raises(Invalid, match="needs your password"):
        prove(engine, strict, ada, "", now=later)
    prove(engine, strict, ada, PASSWORD, now=later)
    for _ in range(3):
        with pytest.raises(Invalid, match="password is wrong"):
            prove(engine, strict, ada, "wrong", now=later)
    with pytest.raises(TooMany):
        prove(engine, strict, ada, PASSWORD, now=later)
    linked = factory.user(username="linked")
    prove(engine, strict, linked, "")
    with pytest.raises(Invalid, match="by a passkey or a new link"):
        prove(engine, strict, linked, "", now=later)


def test_tokens_end_with_the_password_unless_they_are_to_be_kept(engine: Engine, settings: Settings, ada: User) -> None:
    with write_session(engine) as session:
        _, secret = tokens.create(session, user=session.merge(ada), name="x", settings=settings, now=NOON)
    logins.change_password(
        engine, user_id=ada.id, current=PASSWORD, new="five other words here", session_id=0, address="",
        settings=settings, keep_tokens=True, now=NOON,
    )  # fmt: skip
    with read_session(engine) as session:
        assert tokens.find(session, token=secret, settings=settings, now=NOON) is not None
    change(engine, settings, ada, "five other words here", new="and again other words")
    with read_session(engine) as session:
        assert tokens.find(session, token=secret, settings=settings, now=NOON) is None


def change(engine: Engine, settings: Settings, user: User, current: str, new: str = "five other words here") -> None:
    logins.change_password(
        engine,
        user_id=user.id,
        current=current,
        new=new,
        session_id=0,
        address="192.0.2.1",
        settings=settings,
        now=NOON,
    )


def test_a_stolen_session_cannot_guess_the_password_for_long(engine: Engine, strict: Settings, ada: User) -> None:
    for _ in range(3):
        with pytest.raises(Invalid, match="current password is wrong"):
            change(engine, strict, ada, "wrong")
    with pytest.raises(TooMany):
        change(engine, strict, ada, PASSWORD)


def test_a_refused_new_password_is_no_failed_sign_in(engine: Engine, strict: Settings, ada: User) -> None:
    for _ in range(5):
        with pytest.raises(Invalid, match="10 to 200"):
            change(engine, strict, ada, PASSWORD, new="short")
    change(engine, strict, ada, PASSWORD)
    assert attempt(engine, strict, password="five other words here", now=NOON)


def test_a_password_is_hashed_outside_of_any_write_transaction(
    engine: Engine, strict: Settings, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    for name in ("hash_password", "verify_password"):
        slow = getattr(security, name)
        monkeypatch.setattr(security, name, lambda *given, slow=slow: held.append(is_writing()) or slow(*given))
    change(engine, strict, ada, PASSWORD)
    assert held == [False, False]
