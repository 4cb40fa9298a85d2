from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Role, User
from app.services.accounts import tokens, users
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def ada(session: Session) -> User:
    return users.create(session, username="ada", display_name="Ada", role=Role.ENGINEER)


def test_a_token_is_stored_hashed_and_known_by_its_beginning(session: Session, ada: User) -> None:
    row, token = tokens.create(session, user=ada, name="  nightly   export ")
    assert token.startswith("plf_")
    assert token.startswith(row.prefix)
    assert len(token) - len(row.prefix) > 30
    assert row.token_hash != token
    assert row.name == "nightly export"
    known = tokens.find(session, token=token)
    assert known is not None
    assert known.user.username == "ada"


def test_neither_hash_nor_beginning_nor_a_changed_token_opens(session: Session, ada: User) -> None:
    row, token = tokens.create(session, user=ada, name="script")
    for wrong in (row.token_hash, row.prefix, token[:-1], token + "x", token.upper(), "", "plf_"):
        assert tokens.find(session, token=wrong) is None


def test_a_token_ends_on_its_day(session: Session, ada: User) -> None:
    _, token = tokens.create(session, user=ada, name="script", days=7, now=NOON)
    assert tokens.find(session, token=token, now=NOON + timedelta(days=6, hours=23)) is not None
    assert tokens.find(session, token=token, now=NOON + timedelta(days=7)) is None


@pytest.mark.parametrize(
    ("name", "days"), [("", None), ("  ", None), ("x" * 121, None), ("ok", 0.5), ("ok", -1), ("ok", 4000)]
)
def test_senseless_tokens_are_refused(session: Session, ada: User, name: str, days: int | None) -> None:
    with pytest.raises(Invalid):
        tokens.create(session, user=ada, name=name, days=days)


def test_a_revoked_token_is_dead_and_leaves_the_list(session: Session, ada: User) -> None:
    row, token = tokens.create(session, user=ada, name="script")
    bob = users.create(session, username="bob", display_name="Bob", role=Role.ENGINEER)
    with pytest.raises(NotFound):
        tokens.revoke(session, token_id=row.id, by=bob, user=bob)
    assert tokens.find(session, token=token) is not None
    tokens.revoke(session, token_id=row.id, by=ada, user=ada)
    session.flush()
    assert tokens.find(session, token=token) is None
    assert list(tokens.listing(session, user=ada)) == []
    assert [one.revoked_at is not None for one in tokens.listing(session)] == [True]


def test_a_token_ends_after_a_year_unless_its_maker_says_otherwise(session: Session, ada: User) -> None:
    usual, _ = tokens.create(session, user=ada, name="usual", now=NOON)
    forever, _ = tokens.create(session, user=ada, name="forever", days=None, now=NOON)
    assert usual.expires_at == NOON + timedelta(days=365)
    assert forever.expires_at is None


def test_a_new_password_ends_tokens(session: Session, ada: User) -> None:
    _, token = tokens.create(session, user=ada, name="script")
    users.set_password(session, user=ada, password="correct horse battery", by=None, keep_tokens=True)
    assert tokens.find(session, token=token) is not None
    users.set_password(session, user=ada, password="another horse battery", by=None)
    assert tokens.find(session, token=token) is None


def test_a_token_is_narrowed_to_projects_that_its_owner_sees(engine: Engine, factory: Factory) -> None:
    ada = factory.user(username="ada")
    factory.project(slug="open")
    factory.project(slug="closed", open_to_everybody=False)
    with write_session(engine) as session:
        owner = session.merge(ada)
        tokens.create(session, user=owner, name="one", projects=["open"], only_reads=True)
        tokens.create(session, user=owner, name="all")
        for projects in (["closed"], ["open", "closed"], ["nowhere"]):
            with pytest.raises(NotFound):
                tokens.create(session, user=owner, name="x", projects=projects)
        with pytest.raises(Invalid):
            tokens.create(session, user=owner, name="x", projects=[])
    with read_session(engine) as session:
        wide, narrow = tokens.listing(session, user=ada)
        assert tokens.reach(narrow) == "open, only reads" and tokens.reach(wide) == "all of its owner's"
