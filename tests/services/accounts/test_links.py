import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Gone, Invalid, NotFound
from app.models import Link, Role, User, UserSession
from app.services.accounts import links, sessions, users
from tests.factory import Factory

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def ada(session: Session) -> User:
    return users.create(session, username="ada", display_name="Ada", role=Role.ENGINEER)


def test_a_link_signs_in_once(session: Session, ada: User) -> None:
    token = links.create_sign_in(session, user=ada)
    assert links.use(session, token=token).id == ada.id
    session.expire_all()
    with pytest.raises(Gone, match="works once"):
        links.use(session, token=token)


def test_a_link_ends(session: Session, ada: User, settings: Settings) -> None:
    token = links.create_sign_in(session, user=ada, now=NOON)
    end = NOON + timedelta(minutes=settings.link_minutes)
    assert links.find(session, token=token, now=end - timedelta(seconds=1)).user_id == ada.id
    with pytest.raises(Gone, match="expired"):
        links.use(session, token=token, now=end)


def test_a_new_link_replaces_the_old(session: Session, ada: User) -> None:
    old, new = (links.create_sign_in(session, user=ada) for _ in range(2))
    with pytest.raises(Gone, match="replaced"):
        links.use(session, token=old)
    assert links.use(session, token=new).id == ada.id


def test_links_are_stored_hashed_and_point_to_the_configured_address(
    session: Session, ada: User, settings: Settings
) -> None:
    token = links.create_sign_in(session, user=ada)
    row = session.scalars(select(Link)).one()
    assert token != row.token_hash
    with pytest.raises(NotFound):
        links.use(session, token=row.token_hash)
    assert links.url(token, settings) == f"http://testserver/link/{token}"


def test_a_deactivated_person_gets_no_link(session: Session, ada: User) -> None:
    users.set_active(session, user=ada, active=False, by=None)
    with pytest.raises(Conflict, match="deactivated"):
        links.create_sign_in(session, user=ada)


def test_of_many_who_use_one_link_at_once_one_gets_in(engine: Engine, factory: Factory) -> None:
    user = factory.user()
    with write_session(engine) as session:
        token = links.create_sign_in(session, user=session.merge(user))
    barrier = threading.Barrier(4)
    refused: list[Gone] = []

    def use() -> None:
        barrier.wait()
        try:
            with write_session(engine) as session:
                sessions.start(session, user=links.use(session, token=token))
        except Gone as gone:
            refused.append(gone)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(UserSession)) == 1


def test_an_invitation_makes_one_account_with_its_role(session: Session) -> None:
    token = links.invite(session, role=Role.ENGINEER, by=None, note="Grace")
    user = links.accept_invitation(
        session, token=token, username="grace", display_name="Grace", password="correct horse battery"
    )
    assert (user.role, user.username) == (Role.ENGINEER, "grace")
    session.expire_all()
    with pytest.raises(Gone):
        links.accept_invitation(
            session, token=token, username="second", display_name="", password="correct horse battery"
        )


def test_a_refused_form_leaves_the_invitation_open(engine: Engine) -> None:
    with write_session(engine) as session:
        token = links.invite(session, role=Role.EVALUATOR, by=None)
    with pytest.raises(Invalid), write_session(engine) as session:
        links.accept_invitation(session, token=token, username="grace", display_name="", password="short")
    with write_session(engine) as session:
        assert links.accept_invitation(
            session, token=token, username="grace", display_name="", password="correct horse battery"
        ).active


def test_neither_kind_of_link_does_the_others_work(session: Session, ada: User) -> None:
    invitation, sign_in = links.invite(session, role=Role.ADMIN, by=None), links.create_sign_in(session, user=ada)
    with pytest.raises(NotFound):
        links.use(session, token=invitation)
    with pytest.raises(NotFound):
        links.accept_invitation(
            session, token=sign_in, username="eve", display_name="", password="correct horse battery"
        )


def test_an_invitation_can_be_withdrawn_until_it_is_taken(session: Session) -> None:
    boss = users.create(session, username="boss", display_name="", role=Role.ADMIN)
    taken, open_one = (
        links.invite(session, role=Role.EVALUATOR, by=boss),
        links.invite(session, role=Role.EVALUATOR, by=boss, note="Bob"),
    )
    links.accept_invitation(session, token=taken, username="eve", display_name="", password="correct horse battery")
    session.expire_all()
    waiting = links.open_invitations(session)
    assert [link.note for link in waiting] == ["Bob"]
    links.withdraw(session, link_id=waiting[0].id, by=boss)
    session.flush()
    with pytest.raises(Gone, match="withdrawn"):
        links.accept_invitation(
            session, token=open_one, username="bob", display_name="", password="correct horse battery"
        )
    used = session.scalars(select(Link.id).where(Link.used_at.is_not(None))).one()
    with pytest.raises(Conflict, match="taken"):
        links.withdraw(session, link_id=used, by=boss)
