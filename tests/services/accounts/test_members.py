"""Members of a project: who adds and removes whom, and what is kept."""

import threading
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine, delete, func, select, text

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotAllowed, NotFound
from app.models import (
    AuditEntry,
    Guideline,
    Membership,
    Project,
    ProjectCount,
    ProjectRole,
    PromisedMembership,
    Role,
    TokenProject,
    User,
)
from app.services.accounts import links, members, tokens, users
from tests.factory import Factory

EVALUATOR, LEAD, ENGINEER = ProjectRole


@dataclass
class Team:
    engine: Engine
    factory: Factory
    project: Project
    maker: User

    def put(self, user: User, role: ProjectRole | str, by: User | None = None, acting: ProjectRole = ENGINEER) -> bool:
        with write_session(self.engine) as session:
            project, person = session.merge(self.project), session.merge(user)
            return members.put(
                session, project=project, user=person, role=role, by=session.merge(by or self.maker), acting=acting
            )

    def remove(self, user: User, by: User | None = None, acting: ProjectRole = ENGINEER) -> None:
        with write_session(self.engine) as session:
            project, person = session.merge(self.project), session.merge(user)
            members.remove(session, project=project, user=person, by=session.merge(by or self.maker), acting=acting)

    def roles(self) -> dict[str, str]:
        with read_session(self.engine) as session:
            return {one.username: one.role.value for one in members.listing(session, project=self.project)}


@pytest.fixture
def team(engine: Engine, factory: Factory) -> Team:
    maker = factory.user(Role.ENGINEER, "maker")
    return Team(engine, factory, factory.project(by=maker, open_to_everybody=False), maker)


def test_a_project_starts_with_its_maker(team: Team) -> None:
    assert team.roles() == {"maker": "engineer"}


def test_somebody_is_added_changed_and_removed_and_the_audit_trail_says_so(team: Team) -> None:
    ada = team.factory.user(username="ada")
    assert team.put(ada, "evaluator") is True
    assert team.put(ada, "lead") is False
    assert team.put(ada, "lead") is False  # as it was: nothing to record
    assert team.roles() == {"maker": "engineer", "ada": "lead"}
    team.remove(ada)
    assert team.roles() == {"maker": "engineer"}
    with read_session(team.engine) as session:
        told = session.execute(
            select(AuditEntry.action, AuditEntry.detail)
            .where(AuditEntry.action.startswith("member."))
            .order_by(AuditEntry.id)
        ).all()
    assert [tuple(row) for row in told] == [
        ("member.add", {"username": "ada", "role": "evaluator"}),
        ("member.role", {"username": "ada", "before": "evaluator", "after": "lead"}),
        ("member.remove", {"username": "ada", "role": "lead"}),
    ]


def test_a_lead_adds_and_removes_evaluators_only(team: Team) -> None:
    lead, ada, grace = (team.factory.user(username=name) for name in ("lead", "ada", "grace"))
    team.put(lead, LEAD)
    assert team.put(ada, EVALUATOR, by=lead, acting=LEAD)
    for role in (LEAD, ENGINEER):
        with pytest.raises(NotAllowed):
            team.put(grace, role, by=lead, acting=LEAD)
        with pytest.raises(NotAllowed):
            team.put(ada, role, by=lead, acting=LEAD)
    with pytest.raises(NotAllowed):
        team.put(team.maker, EVALUATOR, by=lead, acting=LEAD)
    with pytest.raises(NotAllowed):
        team.remove(team.maker, by=lead, acting=LEAD)
    team.remove(ada, by=lead, acting=LEAD)
    team.remove(lead, by=lead, acting=LEAD)  # anybody may leave
    assert team.roles() == {"maker": "engineer"}


def test_an_evaluator_changes_nothing(team: Team) -> None:
    ada, grace = team.factory.user(username="ada"), team.factory.user(username="grace")
    team.put(ada, EVALUATOR)
    with pytest.raises(NotAllowed):
        team.put(grace, EVALUATOR, by=ada, acting=EVALUATOR)
    with pytest.raises(NotAllowed):
        team.put(ada, ENGINEER, by=ada, acting=EVALUATOR)


def test_the_last_engineer_stays_unless_an_admin_removes_them(team: Team) -> None:
    with pytest.raises(Conflict, match="last engineer"):
        team.remove(team.maker)
    with pytest.raises(Conflict, match="last engineer"):
        team.put(team.maker, LEAD)
    other = team.factory.user(username="other")
    team.put(other, ENGINEER)
    team.remove(team.maker)
    with write_session(team.engine) as session:
        users.set_active(session, user=session.merge(team.maker), active=False, by=None)
    team.remove(other, by=team.factory.admin())
    assert team.roles() == {}


def test_a_deactivated_engineer_does_not_count(team: Team) -> None:
    gone = team.factory.user(username="gone")
    team.put(gone, ENGINEER)
    with write_session(team.engine) as session:
        users.set_active(session, user=session.merge(gone), active=False, by=None)
    with pytest.raises(Conflict, match="last engineer"):
        team.remove(team.maker)


def test_two_engineers_cannot_remove_each_other_at_once(team: Team) -> None:
    other = team.factory.user(username="other")
    team.put(other, ENGINEER)
    together, refused = threading.Barrier(2), []

    def leave(user: User) -> None:
        together.wait()
        try:
            team.remove(user, by=user)
        except Conflict as fact:
            refused.append(fact)

    threads = [threading.Thread(target=leave, args=[user]) for user in (team.maker, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1 and len(team.roles()) == 1


def test_the_same_person_added_twice_at_once_is_one_member(team: Team) -> None:
    ada = team.factory.user(username="ada")
    together, new = threading.Barrier(4), []

    def add() -> None:
        together.wait()
        new.append(team.put(ada, EVALUATOR))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, False, True]


def test_who_is_not_there_is_not_added(team: Team) -> None:
    with read_session(team.engine) as session, pytest.raises(NotFound, match="no account “nobody”"):
        members.person(session, "nobody")
    with pytest.raises(NotFound, match="isn't a member"):
        team.remove(team.factory.user(username="ada"))
    with pytest.raises(Invalid):
        team.put(team.factory.user(username="grace"), "owner")
    gone = team.factory.user(username="gone")
    with write_session(team.engine) as session:
        users.set_active(session, user=session.merge(gone), active=False, by=None)
        gone.active = False
    with pytest.raises(Conflict, match="deactivated"):
        team.put(gone, EVALUATOR)


def test_an_invitation_makes_a_member_of_what_it_names(team: Team) -> None:
    other = team.factory.project(slug="other", open_to_everybody=False)
    with write_session(team.engine) as session:
        boss = session.merge(team.factory.admin(), load=False)
        promised = {team.project.slug: LEAD, other.slug: EVALUATOR}
        token = links.invite(session, role="evaluator", by=boss, projects=promised)
        (link,) = links.open_invitations(session)
        told = members.promises(session, link_ids=[link.id])[link.id]
        assert {one.slug: one.role for one in told} == promised
    with write_session(team.engine) as session:
        links.accept_invitation(
            session, token=token, username="grace", display_name="Grace", password="correct horse battery"
        )
    assert team.roles() == {"maker": "engineer", "grace": "lead"}
    with read_session(team.engine) as session:
        assert {(one.username, one.added_by) for one in members.listing(session, project=other)} >= {
            ("grace", boss.username)
        }


def test_an_invitation_names_projects_that_are_there(team: Team) -> None:
    with write_session(team.engine) as session, pytest.raises(NotFound):
        links.invite(session, role="evaluator", by=None, projects={"nowhere": EVALUATOR})


@pytest.mark.parametrize("gone", ["links", "api_tokens", "projects"])
def test_who_belongs_to_what_goes_with_it(team: Team, gone: str) -> None:
    admin = team.factory.admin()
    with write_session(team.engine) as session:
        session.execute(delete(Guideline))
        session.execute(delete(ProjectCount))
        boss = session.merge(admin)
        links.invite(session, role="evaluator", by=boss, projects={team.project.slug: EVALUATOR})
        tokens.create(session, user=boss, name="x", projects=[team.project.slug])
        session.execute(text(f"DELETE FROM {gone}"))
        left = {
            table.__tablename__: session.scalar(select(func.count()).select_from(table))
            for table in (Membership, PromisedMembership, TokenProject)
        }
    there = {"memberships": 1, "promised_memberships": 1, "token_projects": 1}
    removed = {"links": ["promised_memberships"], "api_tokens": ["token_projects"], "projects": list(there)}[gone]
    assert left == {name: 0 if name in removed else count for name, count in there.items()}
