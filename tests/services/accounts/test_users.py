import threading

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Role, User
from app.services.accounts import audit, links, sessions, tokens, users
from tests.factory import Factory


def make(session: Session, username: str = "ada", role: Role = Role.EVALUATOR, password: str | None = None) -> User:
    return users.create(session, username=username, display_name="", role=role, password=password)


def test_user_names_are_kept_in_lower_case_and_found_in_any(session: Session) -> None:
    user = make(session, " Ada ")
    assert user.username == user.display_name == "ada"
    assert users.get(session, "ADA").id == user.id


@pytest.mark.parametrize("username", ["", " ", "-ada", "a b", "ada/../root", "a\nb", "a\0b", "ädä", "x" * 65, "<b>"])
def test_odd_user_names_are_refused(session: Session, username: str) -> None:
    with pytest.raises(Invalid, match="can't be a user name"):
        make(session, username)


def test_a_name_is_taken_once(session: Session) -> None:
    make(session)
    with pytest.raises(Conflict, match="taken"):
        make(session, "ADA")


@pytest.mark.parametrize("password", ["short", "x" * 201, "aaaaaaaaaaaaaa", "abababababab", "my-grace-password"])
def test_weak_passwords_are_refused(session: Session, password: str) -> None:
    with pytest.raises(Invalid):
        make(session, "grace", password=password)


def test_passwords_are_stored_as_argon2_only(session: Session) -> None:
    user = make(session, password="correct horse battery")
    assert user.password_hash is not None
    assert user.password_hash.startswith("$argon2id$")
    assert "correct" not in user.password_hash


def test_unknown_people_are_not_found(session: Session) -> None:
    with pytest.raises(NotFound):
        users.get(session, "nobody")
    with pytest.raises(NotFound):
        users.first_admin(session)
    assert not users.has_admin(session)


def test_a_role_change_is_written_down(session: Session) -> None:
    boss, user = make(session, "boss", Role.ADMIN), make(session)
    users.set_role(session, user=user, role="engineer", by=boss)
    entry, name = audit.listing(session, action="user.role").items[0]
    assert (name, entry.target, entry.detail) == ("boss", "user ada", {"before": "evaluator", "after": "engineer"})
    with pytest.raises(Invalid, match="no role"):
        users.set_role(session, user=user, role="root", by=boss)


def test_the_last_admin_stays(session: Session) -> None:
    boss = make(session, "boss", Role.ADMIN)
    with pytest.raises(Conflict, match="last admin"):
        users.set_role(session, user=boss, role=Role.ENGINEER, by=boss)
    with pytest.raises(Conflict, match="last admin"):
        users.set_active(session, user=boss, active=False, by=boss)
    make(session, "second", Role.ADMIN)
    users.set_active(session, user=boss, active=False, by=boss)
    assert users.first_admin(session).username == "second"


def test_two_admins_who_demote_each_other_at_once_leave_one(engine: Engine, factory: Factory) -> None:
    admins = [factory.admin(), factory.admin()]
    barrier = threading.Barrier(2)
    refused: list[Conflict] = []

    def demote(other: User) -> None:
        barrier.wait()
        try:
            with write_session(engine) as session:
                users.set_role(session, user=users.get(session, other.username), role=Role.ENGINEER, by=None)
        except Conflict as conflict:
            refused.append(conflict)

    threads = [threading.Thread(target=demote, args=(admin,)) for admin in admins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    with read_session(engine) as session:
        assert users.has_admin(session)


def test_deactivation_ends_sessions_tokens_and_links_for_good(session: Session) -> None:
    boss, user = make(session, "boss", Role.ADMIN), make(session)
    cookie = sessions.start(session, user=user)
    _, token = tokens.create(session, user=user, name="script")
    link = links.create_sign_in(session, user=user)
    users.set_active(session, user=user, active=False, by=boss)
    users.set_active(session, user=user, active=True, by=boss)
    session.expire_all()
    assert sessions.find(session, token=cookie) is None
    assert tokens.find(session, token=token) is None
    with pytest.raises(Exception, match="replaced by a newer one, or withdrawn"):
        links.use(session, token=link)


def test_a_new_password_ends_the_other_sessions(session: Session) -> None:
    user = make(session, password="correct horse battery")
    mine, stolen = sessions.start(session, user=user), sessions.start(session, user=user)
    kept = sessions.find(session, token=mine)
    assert kept is not None
    users.set_password(session, user=user, password="another horse battery", by=user, keep_session_id=kept.id)
    assert sessions.find(session, token=mine) is not None
    assert sessions.find(session, token=stolen) is None
