from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import NotFound
from app.models import Role, User, UserSession
from app.services.accounts import sessions, users

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def ada(session: Session) -> User:
    return users.create(session, username="ada", display_name="Ada", role=Role.EVALUATOR)


def test_the_token_itself_is_nowhere_in_the_database(session: Session, ada: User) -> None:
    token = sessions.start(session, user=ada)
    row = session.scalars(select(UserSession)).one()
    assert len(token) >= 43
    assert token not in (row.token_hash, row.user_agent, row.address)
    assert sessions.find(session, token=row.token_hash) is None


def test_another_secret_key_ends_all_sessions(session: Session, ada: User, settings: Settings) -> None:
    token = sessions.start(session, user=ada, settings=settings)
    other = settings.model_copy(update={"secret_key": "another-secret-" * 4})
    other.__dict__.pop("secret", None)
    assert sessions.find(session, token=token, settings=settings) is not None
    assert sessions.find(session, token=token, settings=other) is None


def test_use_moves_the_end_but_writes_once_a_minute(session: Session, ada: User, settings: Settings) -> None:
    token = sessions.start(session, user=ada, now=NOON)
    row = session.scalars(select(UserSession)).one()
    assert not sessions.is_stale(row.last_used_at, NOON + timedelta(seconds=59))
    later = NOON + timedelta(days=settings.session_days) - timedelta(minutes=1)
    assert sessions.is_stale(row.last_used_at, later)
    sessions.touch(session, session_id=row.id, now=later)
    session.expire_all()
    assert row.last_used_at == later
    sessions.touch(session, session_id=row.id, now=later + timedelta(seconds=30))
    session.expire_all()
    assert row.last_used_at == later
    end = later + timedelta(days=settings.session_days)
    assert sessions.find(session, token=token, now=end - timedelta(seconds=1)) is not None
    assert sessions.find(session, token=token, now=end) is None


def test_a_revoked_session_is_not_revived_by_use(session: Session, ada: User) -> None:
    token = sessions.start(session, user=ada, now=NOON)
    row = session.scalars(select(UserSession)).one()
    sessions.revoke(session, session_id=row.id, user=ada, now=NOON)
    session.flush()
    sessions.touch(session, session_id=row.id, now=NOON + timedelta(hours=1))
    assert sessions.find(session, token=token, now=NOON) is None


def test_nobody_ends_a_session_of_somebody_else(session: Session, ada: User) -> None:
    bob = users.create(session, username="bob", display_name="Bob", role=Role.ADMIN)
    token = sessions.start(session, user=ada)
    row = session.scalars(select(UserSession)).one()
    with pytest.raises(NotFound):
        sessions.revoke(session, session_id=row.id, user=bob)
    assert sessions.find(session, token=token) is not None


def test_the_list_shows_living_sessions_only(session: Session, ada: User) -> None:
    sessions.start(session, user=ada, now=NOON, user_agent="old")
    sessions.start(session, user=ada, now=NOON + timedelta(days=1), user_agent="new")
    assert [row.user_agent for row in sessions.listing(session, user=ada, now=NOON + timedelta(days=2))] == [
        "new",
        "old",
    ]
    assert [row.user_agent for row in sessions.listing(session, user=ada, now=NOON + timedelta(days=14, hours=1))] == [
        "new"
    ]


def test_a_session_ends_after_its_longest_life_however_much_it_is_used(
    session: Session, ada: User, settings: Settings
) -> None:
    token = sessions.start(session, user=ada, now=NOON)
    row = session.scalars(select(UserSession)).one()
    for day in range(1, settings.session_longest_days):
        sessions.touch(session, session_id=row.id, now=NOON + timedelta(days=day))
        assert sessions.find(session, token=token, now=NOON + timedelta(days=day)) is not None
    end = NOON + timedelta(days=settings.session_longest_days)
    assert sessions.find(session, token=token, now=end - timedelta(seconds=1)) is not None
    assert sessions.find(session, token=token, now=end) is None


def test_a_session_is_fresh_for_some_minutes(session: Session, ada: User, settings: Settings) -> None:
    sessions.start(session, user=ada, now=NOON)
    row = session.scalars(select(UserSession)).one()
    limit = timedelta(minutes=settings.fresh_minutes)
    assert sessions.is_fresh(session, session_id=row.id, now=NOON + limit - timedelta(seconds=1))
    assert not sessions.is_fresh(session, session_id=row.id, now=NOON + limit)
    assert not sessions.is_fresh(session, session_id=999, now=NOON)
