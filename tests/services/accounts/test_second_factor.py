from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid
from app.models import AuditEntry, RecoveryCode, Role, User
from app.services.accounts import second_factor
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada")


def begin(engine: Engine, user: User) -> pyotp.TOTP:
    with write_session(engine) as session:
        return pyotp.TOTP(second_factor.begin(session, user=session.get_one(User, user.id)).secret)


def confirm(engine: Engine, user: User, code: str, now: datetime = NOON) -> list[str]:
    with write_session(engine) as session:
        return second_factor.confirm(session, user=session.get_one(User, user.id), code=code, now=now)


def check(engine: Engine, user: User, code: str, now: datetime = NOON) -> bool:
    with write_session(engine) as session:
        return second_factor.check(session, user=session.get_one(User, user.id), code=code, now=now)


def test_it_counts_from_its_first_code_on(engine: Engine, ada: User) -> None:
    app = begin(engine, ada)
    assert not check(engine, ada, app.at(NOON))
    with pytest.raises(Invalid, match="isn't the code"):
        confirm(engine, ada, "000000")
    codes = confirm(engine, ada, f" {app.at(NOON)[:3]} {app.at(NOON)[3:]} ")
    assert len(set(codes)) == 10
    later = NOON + timedelta(minutes=2)
    assert check(engine, ada, app.at(later), now=later)
    with pytest.raises(Conflict):
        begin(engine, ada)
    with read_session(engine) as session:
        assert session.get_one(User, ada.id).has_second_factor
        assert [
            e.detail for e in session.scalars(select(AuditEntry).where(AuditEntry.action == "user.second_factor"))
        ] == [{"on": True}]


def test_the_secret_is_kept_sealed_and_codes_hashed(engine: Engine, ada: User, settings: Settings) -> None:
    app = begin(engine, ada)
    codes = confirm(engine, ada, app.at(NOON))
    with read_session(engine) as session:
        row = session.get_one(User, ada.id)
        assert row.totp_secret and app.secret not in row.totp_secret
        kept = " ".join(session.scalars(select(RecoveryCode.code_hash)))
        assert not any(code in kept or code.replace("-", "") in kept for code in codes)
    other = settings.model_copy(update={"secret_key": "another-secret-" * 4})
    other.__dict__.pop("secret", None)
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        assert not second_factor.check(session, user=user, code=app.at(NOON), settings=other, now=NOON)
        assert not second_factor.check(session, user=user, code=codes[0], settings=other, now=NOON)


def test_an_apps_clock_may_be_half_a_minute_off_and_no_code_works_twice(engine: Engine, ada: User) -> None:
    app = begin(engine, ada)
    confirm(engine, ada, app.at(NOON - timedelta(hours=1)), now=NOON - timedelta(hours=1))
    assert not check(engine, ada, app.at(NOON - timedelta(seconds=60)))
    assert not check(engine, ada, app.at(NOON + timedelta(seconds=60)))
    assert check(engine, ada, app.at(NOON - timedelta(seconds=30)))
    assert not check(engine, ada, app.at(NOON - timedelta(seconds=30)))
    assert check(engine, ada, app.at(NOON))
    assert check(engine, ada, app.at(NOON + timedelta(seconds=30)))
    assert not check(engine, ada, app.at(NOON))  # older than the last


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "0x1234", "-12345", "aaaa-bbbb-cccc"])
def test_what_is_no_code_opens_nothing(engine: Engine, ada: User, code: str) -> None:
    confirm(engine, ada, begin(engine, ada).at(NOON))
    assert not check(engine, ada, code)


def test_a_recovery_code_works_once_however_it_is_typed(engine: Engine, ada: User) -> None:
    codes = confirm(engine, ada, begin(engine, ada).at(NOON))
    assert check(engine, ada, codes[0].upper().replace("-", " "))
    assert not check(engine, ada, codes[0])
    with read_session(engine) as session:
        assert second_factor.codes_left(session, user=session.get_one(User, ada.id)) == 9
        assert session.scalars(select(AuditEntry).where(AuditEntry.action == "user.recovery_code")).one()


def test_of_two_that_use_one_code_at_once_one_is_let_in(engine: Engine, ada: User) -> None:
    codes = confirm(engine, ada, begin(engine, ada).at(NOON))
    barrier, answers = Barrier(2), []

    def use() -> None:
        barrier.wait()
        answers.append(check(engine, ada, codes[3]))

    threads = [Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, True]


def test_anothers_recovery_code_opens_nothing(engine: Engine, ada: User, factory: Factory) -> None:
    bob = factory.user(username="bob")
    codes = confirm(engine, bob, begin(engine, bob).at(NOON))
    confirm(engine, ada, begin(engine, ada).at(NOON))
    assert not check(engine, ada, codes[0])


def test_new_recovery_codes_end_the_old(engine: Engine, ada: User) -> None:
    with write_session(engine) as session, pytest.raises(Conflict):
        second_factor.renew_codes(session, user=session.get_one(User, ada.id))
    old = confirm(engine, ada, begin(engine, ada).at(NOON))
    with write_session(engine) as session:
        new = second_factor.renew_codes(session, user=session.get_one(User, ada.id))
    assert not check(engine, ada, old[0])
    assert check(engine, ada, new[0])


def test_where_a_role_must_have_it_only_another_can_turn_it_off(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    strict = settings.model_copy(update={"second_factor_roles": "admin,engineer"})
    engineer, evaluator = factory.engineer(), factory.user()
    with read_session(engine) as session:
        assert second_factor.is_missing(session.get_one(User, engineer.id), strict)
        assert not second_factor.is_missing(session.get_one(User, evaluator.id), strict)
    confirm(engine, engineer, begin(engine, engineer).at(NOON))
    with write_session(engine) as session:
        user = session.get_one(User, engineer.id)
        assert user.role is Role.ENGINEER and not second_factor.is_missing(user, strict)
        with pytest.raises(Conflict, match="Each engineer here must have"):
            second_factor.turn_off_app(session, user=user, settings=strict)
        second_factor.reset(session, user=user, by=None, settings=strict)
    with read_session(engine) as session:
        user = session.get_one(User, engineer.id)
        assert (user.totp_secret, user.has_second_factor) == (None, False)
        assert session.scalar(select(func.count()).select_from(RecoveryCode)) == 0


def test_the_apps_address_names_the_account_and_the_installation(engine: Engine, ada: User, settings: Settings) -> None:
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        setup = second_factor.begin(session, user=user, settings=settings)
        assert second_factor.pending(user, settings) == setup
    address = urlsplit(setup.uri)
    assert (address.scheme, address.netloc) == ("otpauth", "totp")
    assert address.path.endswith(":ada")
    assert parse_qs(address.query) == {"secret": [setup.secret], "issuer": ["Prefloop (testserver)"]}
    assert second_factor.picture(setup).startswith("data:image/svg+xml")
