import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session
from app.errors import Conflict, TooMany
from app.models import PasskeyChallenge, User
from app.services.accounts import challenges
from tests.authenticator import PLACE, add_passkey
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PLACE})


@pytest.fixture
def ada(factory: Factory) -> User:
    return factory.user(username="ada")


def ask(
    engine: Engine, settings: Settings, browser: str = "here", address: str = "192.0.2.1", now: datetime = NOON
) -> challenges.Options:
    return challenges.to_sign_in(engine, browser=browser, address=address, settings=settings, now=now)


def held(engine: Engine) -> int:
    with read_session(engine) as session:
        return session.scalars(select(func.count()).select_from(PasskeyChallenge)).one()


def test_a_challenge_is_taken_once_by_its_browser_in_time(engine: Engine, settings: Settings) -> None:
    first, second = ask(engine, settings), ask(engine, settings)
    assert first["challenge"] != second["challenge"] and len(second["challenge"]) == 43
    late = NOON + challenges.LIFE
    assert challenges.take(engine, browser="elsewhere", settings=settings, now=NOON) is None
    assert challenges.take(engine, browser="here", settings=settings, now=late) is None
    taken = challenges.take(engine, browser="here", settings=settings, now=NOON)
    assert taken is not None and len(taken) == 32
    assert challenges.take(engine, browser="here", settings=settings, now=NOON) is None


def test_an_address_holds_as_many_as_it_may_fail_and_old_ones_go(engine: Engine, settings: Settings) -> None:
    strict = settings.model_copy(update={"login_attempts_together": 3})
    for number in range(3):
        ask(engine, strict, f"2001:db8::{number}", f"2001:db8::{number}")
    with pytest.raises(TooMany, match="Wait 5 min"):
        ask(engine, strict, "one more", "2001:db8::ffff")  # of the same network
    ask(engine, strict, "elsewhere", "2001:db8:0:1::1")
    ask(engine, strict, "later", "2001:db8::1", NOON + challenges.LIFE)
    assert held(engine) == 1


def test_an_address_without_a_name_or_tls_has_no_passkeys(engine: Engine, settings: Settings, ada: User) -> None:
    for url in ("http://box.example", "https://192.0.2.7", "http://testserver"):
        elsewhere = settings.model_copy(update={"public_url": url})
        with pytest.raises(Conflict, match="keep no passkeys"):
            ask(engine, elsewhere)
    for url, host in (("http://127.0.0.1:8000", "localhost"), ("http://[::1]:8000", "localhost"), ("", "localhost")):
        here = settings.model_copy(update={"public_url": url})
        assert ask(engine, here)["rpId"] == host
        place = here.public_address.for_passkeys
        assert place is not None and place.origin == "http://localhost:8000"
    under = settings.model_copy(update={"public_url": "https://box.example:8443/team"})
    place = under.public_address.for_passkeys
    assert place is not None and (place.host, place.origin) == ("box.example", "https://box.example:8443")


def test_a_device_is_asked_for_no_second_passkey_and_told_no_name_but_the_accounts(
    engine: Engine, settings: Settings, ada: User
) -> None:
    device = add_passkey(engine, settings, ada)
    told = {"user_id": ada.id, "browser": "here", "address": "192.0.2.1", "settings": settings}
    options = challenges.to_add(engine, **told)
    (excluded,) = options["excludeCredentials"]
    assert excluded["id"] == json.loads(device.get(ask(engine, settings)))["id"]
    assert options["user"]["name"] == "ada" and options["user"]["id"] == device.handle
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert ask(engine, settings)["userVerification"] == "required"
