from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import write_session
from app.errors import TooMany
from app.services.accounts import attempts

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def test_what_succeeded_is_forgotten_and_what_was_refused_does_not_count(engine: Engine, settings: Settings) -> None:
    allowed = {"ip:192.0.2.1": 2}
    attempts.begin(engine, allowed, settings, NOON)
    for _ in range(3):
        with write_session(engine) as session:
            attempts.forget(session, attempts.begin(engine, allowed, settings, NOON))
    attempts.begin(engine, allowed, settings, NOON)
    for minute in (1, 14):
        with pytest.raises(TooMany, match="2 are allowed") as refused:
            attempts.begin(engine, allowed, settings, NOON + timedelta(minutes=minute))
        assert refused.value.details["retry_after"] == (15 - minute) * 60
    attempts.begin(engine, {"ip:192.0.2.9": 2}, settings, NOON)
    assert attempts.begin(engine, allowed, settings, NOON + timedelta(minutes=15))


def test_few_for_an_account_from_one_address_and_more_together(settings: Settings) -> None:
    assert attempts.limits("ada", "2001:db8::1", settings) == {
        "2001:db8::/64 ada": settings.login_attempts,
        "ip:2001:db8::/64": settings.login_attempts_together,
        "user:ada": settings.login_attempts_together,
    }
