"""Who may do what in which project, asked for one and for lists."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import NotFound
from app.models import Job, Project, ProjectRole, Role, User
from app.services.accounts import access, members, tokens
from app.services.accounts.access import Caller
from tests.factory import Factory

EVALUATOR, LEAD, ENGINEER = ProjectRole


@pytest.fixture
def join(engine: Engine, factory: Factory) -> Callable[[Project, User, ProjectRole], None]:
    def joined(project: Project, user: User, role: ProjectRole) -> None:
        admin = factory.admin()
        with write_session(engine) as session:
            by = session.merge(admin)
            here, person = session.merge(project), session.merge(user)
            members.put(session, project=here, user=person, role=role, by=by, acting=ENGINEER)

    return joined


def seen(session: Session, caller: Caller, least: ProjectRole = EVALUATOR) -> set[str]:
    return set(session.scalars(select(Project.slug).where(access.may(caller, least))))


@pytest.mark.parametrize("account", list(Role))
@pytest.mark.parametrize("membership", [None, *ProjectRole])
@pytest.mark.parametrize("is_open", [False, True])
def test_one_project_and_a_list_say_the_same(
    factory: Factory,
    join: Callable[[Project, User, ProjectRole], None],
    account: Role,
    membership: ProjectRole | None,
    is_open: bool,
) -> None:
    user, project = factory.user(account), factory.project(slug="tone", open_to_everybody=is_open)
    if membership:
        join(project, user, membership)
    by_account = EVALUATOR if account is Role.EVALUATOR else ENGINEER
    roles = [membership] if membership else []
    roles += [by_account] if is_open else []
    roles += [ENGINEER] if account is Role.ADMIN else []
    role = max(roles, key=list(ProjectRole).index, default=None)
    caller = Caller.of(user)
    with read_session(factory.engine) as session:
        place = access.find(session, caller=caller, of="slug", value="tone")
        assert (place[1] if place else None) is role
        for least in ProjectRole:
            assert (seen(session, caller, least) == {"tone"}) is (role is not None and role.covers(least))


def test_a_narrowed_token_sees_what_both_it_and_its_owner_may(
    factory: Factory, join: Callable[[Project, User, ProjectRole], None]
) -> None:
    user = factory.user()
    mine, other, closed = (
        factory.project(slug=slug, open_to_everybody=slug != "closed") for slug in ("mine", "other", "closed")
    )
    join(closed, user, LEAD)
    admin = factory.admin()
    with write_session(factory.engine) as session:
        owner = session.merge(user)
        row, _ = tokens.create(session, user=owner, name="x", projects=[mine.slug, closed.slug])
        narrow = Caller(user.id, user.role, row.id)
        assert seen(session, narrow) == {"mine", "closed"} and seen(session, Caller.of(user)) == {
            "mine",
            "other",
            "closed",
        }
        assert access.find(session, caller=narrow, of="slug", value=other.slug) is None
        by = session.merge(admin)
        members.remove(session, project=session.merge(closed), user=owner, by=by, acting=ENGINEER)
        assert seen(session, narrow) == {"mine"}


@pytest.mark.parametrize(
    ("of", "value"),
    [
        ("job_id", "0"),
        ("job_id", "-1"),
        ("job_id", "1.5"),
        ("job_id", "9" * 30),
        ("job_id", "²"),
        ("job_id", str(2**31)),
        ("slug", "a\0b"),
        ("slug", "x" * 5000),
        ("slug", ""),
    ],
)
def test_what_no_database_holds_is_not_there(factory: Factory, of: str, value: str) -> None:
    caller = Caller.of(factory.admin())
    with read_session(factory.engine) as session, pytest.raises(NotFound):
        access.get(session, caller=caller, of=of, value=value)


def test_a_guard_is_one_query_and_a_list_looks_memberships_up(factory: Factory) -> None:
    user, project = factory.user(), factory.project(open_to_everybody=False)
    statements: list[tuple[str, tuple[object, ...]]] = []
    with read_session(factory.engine) as session:
        bind = session.get_bind()
        event.listen(bind, "before_cursor_execute", lambda *call: statements.append((call[2], call[3])))
        access.find(session, caller=Caller.of(user), of="slug", value=project.slug)
        asked = [statement for statement, _ in statements if statement.startswith("SELECT")]
        assert len(asked) == 1
        jobs = select(Job).where(access.within(Job.project_id, caller=Caller.of(user), least=ENGINEER))
        session.scalars(jobs).all()
    if factory.engine.dialect.name == "sqlite":
        with factory.engine.connect() as connection:
            plan = [
                str(row)
                for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statements[-1][0], statements[-1][1])
            ]
        assert not any("SCAN memberships" in line for line in plan), plan
