import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound, TooMany, WrongCredentials
from app.models import AuditEntry, Passkey, PasskeyChallenge, RecoveryCode, User, UserSession
from app.services.accounts import challenges, logins, passkeys, second_factor, sessions, users
from app.services.accounts.passkeys import Answer, WrongPasskey
from tests.authenticator import PLACE, Authenticator, add_passkey
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.1"
Add = Callable[..., Authenticator]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PLACE})


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada", password=PASSWORD)


@pytest.fixture
def add(engine: Engine, settings: Settings) -> Add:
    """A device with a new passkey of the user."""

    def added(user: User, **device: bool) -> Authenticator:
        return add_passkey(engine, settings, user, now=NOON, **device)

    return added


def ask_to_add(engine: Engine, settings: Settings, user: User, now: datetime = NOON) -> challenges.Options:
    asked = {"user_id": user.id, "browser": f"of {user.id}", "address": ADDRESS}
    return challenges.to_add(engine, **asked, settings=settings, now=now)


def keep(
    engine: Engine, settings: Settings, user: User, text: str, *, browser: str = "", now: datetime = NOON
) -> list[str]:
    answer = Answer(text, browser or f"of {user.id}")
    told = {"user_id": user.id, "name": "laptop", "answer": answer, "address": ADDRESS}
    return passkeys.add(engine, **told, settings=settings, now=now)


def ask(engine: Engine, settings: Settings, now: datetime = NOON) -> challenges.Options:
    return challenges.to_sign_in(engine, browser="here", address=ADDRESS, settings=settings, now=now)


def sign_in(engine: Engine, settings: Settings, text: str, browser: str = "here", now: datetime = NOON) -> User:
    answer = Answer(text, browser)
    return logins.sign_in_by_passkey(engine, answer=answer, address=ADDRESS, settings=settings, now=now)[0]


def started(engine: Engine) -> int:
    with read_session(engine) as session:
        return session.scalars(select(func.count()).select_from(UserSession)).one()


def entries(engine: Engine, action: str) -> list[tuple[str, dict[str, object]]]:
    with read_session(engine) as session:
        rows = session.scalars(select(AuditEntry).where(AuditEntry.action == action).order_by(AuditEntry.id))
        return [(row.target, row.detail) for row in rows]


def test_a_passkey_signs_in_by_itself_and_its_use_is_noted(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    device = add(ada)
    later = NOON + timedelta(days=3)
    assert sign_in(engine, settings, device.get(ask(engine, settings, later)), now=later).id == ada.id
    with read_session(engine) as session:
        [row] = passkeys.listing(session, user=ada)
        assert (row.name, row.created_at, row.last_used_at, row.sign_count) == ("laptop", NOON, later, 1)
        assert session.scalar(select(func.count()).select_from(PasskeyChallenge)) == 0
    assert entries(engine, "session.start") == [("user ada", {"how": "passkey"})]
    assert entries(engine, "passkey.add") == [("user ada", {"passkey": 1})]


def test_a_device_without_a_counter_may_be_used_again(engine: Engine, settings: Settings, ada: User, add: Add) -> None:
    device = add(ada, counts=False)
    for _ in range(2):
        assert sign_in(engine, settings, device.get(ask(engine, settings))).id == ada.id


def broken(text: str) -> str:
    """The answer with a signature of nothing."""
    told = json.loads(text)
    return json.dumps(told | {"response": told["response"] | {"signature": "AAAA"}})


def forgeries(device: Authenticator, other: Authenticator) -> dict[str, Callable[[challenges.Options], str]]:
    """Wrong answers by what is wrong with them. `other` is a device of somebody else."""
    return {
        "another challenge": lambda asked: device.get(asked | {"challenge": "A" * 43}),
        "another site": lambda asked: replace(device, origin="https://box.example.evil.example").get(asked),
        "a subdomain": lambda asked: replace(device, origin="https://www.box.example").get(asked),
        "plain HTTP": lambda asked: replace(device, origin="http://box.example").get(asked),
        "another host": lambda asked: device.get(asked | {"rpId": "evil.example"}),
        "nobody was checked": lambda asked: replace(device, verifies=False).get(asked),
        "another key": lambda asked: replace(device, key=other.key).get(asked),
        "a stranger's handle": lambda asked: replace(other, handle=device.handle).get(asked),
        "no handle": lambda asked: replace(device, handle="").get(asked),
        "unknown": lambda asked: Authenticator(handle=device.handle).get(asked),
        "another ceremony": lambda asked: device.create(
            asked | {"user": {"id": device.handle}, "rp": {"id": asked["rpId"]}}
        ),
        "a broken signature": lambda asked: broken(device.get(asked)),
        "too long": lambda asked: device.get(asked) + " " * passkeys.LONGEST,
        "nothing": lambda asked: "",
        "no JSON": lambda asked: "{",
        "a list": lambda asked: "[]",
        "deep": lambda asked: "[" * 15_000,
        "numbers": lambda asked: '{"id": 5, "rawId": 5, "type": 5, "response": 5}',
        "no text": lambda asked: '{"id": "\\ud800", "rawId": "\\ud800", "type": "public-key", "response": {}}',
    }


def test_what_is_forged_signs_nobody_in(
    engine: Engine, settings: Settings, ada: User, factory: Factory, add: Add
) -> None:
    device, other = add(ada), add(factory.user(username="mallory", password=PASSWORD))
    patient = settings.model_copy(update={"login_attempts": 99})
    for forge in forgeries(device, other).values():
        with pytest.raises(WrongPasskey):
            sign_in(engine, patient, forge(ask(engine, patient)))
    assert started(engine) == 0
    fails = entries(engine, "session.fail")
    assert {how["how"] for _, how in fails} == {"passkey"}
    assert {target for target, _ in fails} == {"user ada", "unknown passkey"}
    assert sign_in(engine, patient, device.get(ask(engine, patient))).id == ada.id


def test_a_challenge_is_answered_once_in_time_by_the_browser_that_was_asked(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    device = add(ada, counts=False)
    answered = device.get(ask(engine, settings))
    with pytest.raises(WrongPasskey, match="took too long"):
        sign_in(engine, settings, answered, browser="elsewhere")
    with pytest.raises(WrongPasskey, match="took too long"):
        sign_in(engine, settings, answered, now=NOON + challenges.LIFE)
    assert sign_in(engine, settings, answered).id == ada.id
    with pytest.raises(WrongPasskey, match="sent twice"):
        sign_in(engine, settings, answered)
    earlier = device.get(ask(engine, settings))
    ask(engine, settings)
    with pytest.raises(WrongPasskey):  # a new question is in the place of the earlier one
        sign_in(engine, settings, earlier)
    with pytest.raises(WrongPasskey):  # and one wrong answer uses it up too
        sign_in(engine, settings, earlier)
    assert started(engine) == 1


def test_a_counter_that_goes_back_is_a_copys(engine: Engine, settings: Settings, ada: User, add: Add) -> None:
    device = add(ada)
    for _ in range(2):
        sign_in(engine, settings, device.get(ask(engine, settings)))
    for counted in (1, 2, 0):
        copy = replace(device, sign_count=counted - 1)
        with pytest.raises(WrongPasskey, match="counter went back"):
            sign_in(engine, settings, copy.get(ask(engine, settings)))
    assert ("user ada", {"how": "passkey whose counter went back"}) in entries(engine, "session.fail")
    assert sign_in(engine, settings, device.get(ask(engine, settings))).id == ada.id


def test_a_deactivated_person_stays_out_and_is_told_what_a_stranger_is(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    device = add(ada)
    with write_session(engine) as session:
        users.set_active(session, user=session.get_one(User, ada.id), active=False, by=None)
    told = set()
    for one in (device, Authenticator(handle=device.handle)):
        with pytest.raises(WrongPasskey) as refused:
            sign_in(engine, settings, one.get(ask(engine, settings)))
        told.add(str(refused.value))
    assert len(told) == 1 and started(engine) == 0


def test_a_passkey_is_the_second_factor_of_a_password(
    engine: Engine, settings: Settings, ada: User, factory: Factory, add: Add
) -> None:
    device, others = add(ada), add(factory.user(username="mallory", password=PASSWORD))
    asked = {"username": "ada", "password": PASSWORD, "address": ADDRESS, "settings": settings}
    with pytest.raises(logins.CodeNeeded) as needed:
        logins.sign_in(engine, **asked, now=NOON)
    given = {"pending": needed.value.pending, "address": ADDRESS, "settings": settings, "now": NOON}
    with pytest.raises(WrongPasskey, match="another account's"):
        logins.give_second(engine, answer=Answer(others.get(ask(engine, settings)), "here"), **given)
    with pytest.raises(second_factor.WrongCode):
        logins.give_second(engine, code="", **given)
    answer = Answer(device.get(ask(engine, settings)), "here")
    assert logins.give_second(engine, answer=answer, **given)[0].id == ada.id
    with pytest.raises(WrongPasskey):
        logins.give_second(engine, answer=answer, **given)
    assert entries(engine, "session.start") == [("user ada", {"how": "password and passkey"})]


def test_wrong_answers_are_limited_as_wrong_codes_are(engine: Engine, settings: Settings, ada: User, add: Add) -> None:
    strict = settings.model_copy(update={"login_attempts": 3, "login_attempts_together": 3})
    device = add(ada)
    for _ in range(3):
        with pytest.raises(WrongCredentials):
            sign_in(engine, strict, broken(device.get(ask(engine, strict))))
    with pytest.raises(TooMany, match="3 are allowed"):
        sign_in(engine, strict, device.get(ask(engine, strict)))
    later = NOON + timedelta(minutes=15)
    assert sign_in(engine, strict, device.get(ask(engine, strict, later)), now=later).id == ada.id


def test_a_new_passkey_is_kept_once_and_only_for_whom_it_was_asked(
    engine: Engine, settings: Settings, ada: User, factory: Factory
) -> None:
    mallory = factory.user(username="mallory")
    made = Authenticator().create(ask_to_add(engine, settings, ada))
    with pytest.raises(Invalid, match="took too long"):
        keep(engine, settings, mallory, made)
    with pytest.raises(Invalid, match="took too long"):
        keep(engine, settings, ada, made, now=NOON + challenges.LIFE)
    assert len(keep(engine, settings, ada, made)) == second_factor.RECOVERY_CODES
    with pytest.raises(Invalid, match="sent twice"):
        keep(engine, settings, ada, made)
    device = Authenticator()
    assert keep(engine, settings, ada, device.create(ask_to_add(engine, settings, ada))) == []
    options = ask_to_add(engine, settings, mallory)
    with pytest.raises(Conflict, match="in use already"):  # an id that is somebody's
        keep(engine, settings, mallory, replace(Authenticator(), credential_id=device.credential_id).create(options))
    for forged in (
        replace(device, origin="https://evil.example"),
        replace(device, verifies=False),
    ):
        with pytest.raises(Invalid, match="isn't right"):
            keep(engine, settings, mallory, forged.create(ask_to_add(engine, settings, mallory)))
    for text in ("", "{}", device.get(ask(engine, settings))):
        ask_to_add(engine, settings, mallory)
        with pytest.raises(Invalid, match="isn't right"):
            keep(engine, settings, mallory, text)
    with read_session(engine) as session:
        assert passkeys.listing(session, user=mallory) == []


def test_an_account_holds_some_passkeys_each_with_a_name(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    for _ in range(challenges.MOST):
        add(ada)
    with pytest.raises(Conflict, match="20 passkeys"):
        ask_to_add(engine, settings, ada)
    for name in ("", " ", "x" * 121, "a\nb\x1b"):
        with pytest.raises(Invalid, match="needs a name"):
            passkeys.named(name)


def test_a_role_that_must_have_a_second_factor_is_content_with_a_passkey(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    strict = settings.model_copy(update={"second_factor_roles": "evaluator"})
    add(ada)
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        assert not second_factor.is_missing(user, strict)
        remove = {"passkey_id": passkeys.listing(session, user=user)[0].id, "user": user, "by": user}
        with pytest.raises(Conflict, match="must have a second factor"):
            passkeys.remove(session, **remove, settings=strict)
        app = pyotp.TOTP(second_factor.begin(session, user=user, settings=strict).secret)
        assert not second_factor.check(session, user=user, code=app.at(NOON), settings=strict, now=NOON)
        second_factor.confirm(session, user=user, code=app.at(NOON), settings=strict, now=NOON)
        second_factor.turn_off_app(session, user=user, settings=strict)
        second_factor.begin(session, user=user, settings=strict)
        passkeys.remove(session, **remove, settings=settings)
        assert second_factor.is_missing(user, strict)
        assert second_factor.codes_left(session, user=user) == 0


def test_only_its_owner_or_an_admin_removes_a_passkey(
    engine: Engine, settings: Settings, ada: User, factory: Factory, add: Add
) -> None:
    mallory, admin = factory.user(username="mallory"), factory.admin()
    device = add(ada)
    with write_session(engine) as session:
        [row] = passkeys.listing(session, user=ada)
        theirs, by = session.get_one(User, mallory.id), session.get_one(User, admin.id)
        with pytest.raises(NotFound):
            passkeys.remove(session, passkey_id=row.id, user=theirs, by=theirs, settings=settings)
        user = session.get_one(User, ada.id)
        assert passkeys.remove(session, passkey_id=row.id, user=user, by=by, settings=settings) == "laptop"
        assert not user.has_second_factor
    with pytest.raises(WrongPasskey):
        sign_in(engine, settings, device.get(ask(engine, settings)))
    assert ("user ada", {"passkey": row.id}) in entries(engine, "passkey.remove")


def test_a_reset_ends_passkeys_app_and_codes(engine: Engine, settings: Settings, ada: User, add: Add) -> None:
    device = add(ada)
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        second_factor.reset(session, user=user, by=None, settings=settings)
        assert not user.has_second_factor
        assert session.scalar(select(func.count()).select_from(RecoveryCode)) == 0
    with pytest.raises(WrongPasskey):
        sign_in(engine, settings, device.get(ask(engine, settings)))
    assert ("user ada", {"on": False, "passkeys": 1}) in entries(engine, "user.second_factor")


@pytest.mark.parametrize("doubted", ["a new password", "deactivated and back"])
def test_what_may_be_a_thiefs_signs_in_only_beside_what_its_owner_knows(
    engine: Engine, settings: Settings, ada: User, add: Add, doubted: str
) -> None:
    device = add(ada)
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        if doubted == "a new password":
            users.set_password(session, user=user, password="five other words here", by=None)
        else:
            users.set_active(session, user=user, active=False, by=None)
            users.set_active(session, user=user, active=True, by=None)
    with pytest.raises(WrongPasskey, match="doesn't sign in alone"):
        sign_in(engine, settings, device.get(ask(engine, settings)))
    told = {"address": ADDRESS, "settings": settings, "now": NOON}
    assert logins.check_second(
        engine, user=ada, answer=Answer(device.get(ask(engine, settings)), "here"), **told
    ) == "passkey"  # fmt: skip
    assert sign_in(engine, settings, device.get(ask(engine, settings))).id == ada.id


def test_a_sign_in_ends_with_the_account_that_it_began_in(
    engine: Engine, settings: Settings, ada: User, add: Add
) -> None:
    device = add(ada)
    answer = Answer(device.get(ask(engine, settings)), "here")
    _, token = logins.sign_in_by_passkey(engine, answer=answer, address=ADDRESS, settings=settings, now=NOON)
    with write_session(engine) as session:
        assert sessions.find(session, token=token, settings=settings, now=NOON) is not None
        users.set_password(session, user=session.get_one(User, ada.id), password="five other words here", by=None)
        assert sessions.find(session, token=token, settings=settings, now=NOON) is None
        assert session.scalars(select(Passkey.alone)).all() == [False]
