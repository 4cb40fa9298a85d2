"""A person is erased: no row says who they were, their votes stay or are left out, and what was made before is named."""

import json

import pytest
from sqlalchemy import Engine, select, text

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.models import Base, Container, ExtractForm, Judgment, Project, User
from app.services.accounts import links, members, tokens, users
from app.services.datasets import snapshots
from app.services.datasets.extracts import extracts, own
from app.services.jobs import jobs
from app.services.loop.removal import people
from app.services.loop.removal.people import Votes
from app.storage import Storage
from tests.authenticator import add_passkey
from tests.factory import Factory
from tests.services.collecting.test_exclusions import wrong_counts
from tests.services.loop.removal.test_imports import brought
from tests.services.training.trained import trained

WHO = "zaphod.b@example.com"
NAME = "Zaphod Beeblebrox"


@pytest.fixture
def person(engine: Engine, settings: Settings, factory: Factory) -> User:
    with write_session(engine) as session:
        made = users.create(session, username=WHO, display_name=NAME, role="engineer")
        tokens.create(session, user=made, name="mine")
        links.create_sign_in(session, user=made)
    add_passkey(engine, settings, made, name=f"Phone of {NAME}")
    return made


@pytest.fixture
def project(engine: Engine, settings: Settings, factory: Factory, storage: Storage, person: User) -> Project:
    project = factory.project(eval_percent=0)
    factory.comparisons(project, 4)
    for _ in range(2):
        assert factory.judge(project, person)
    assert factory.judge(project, factory.user())
    run, _ = trained(engine, settings, project, person)
    factory.comparison(project)
    with write_session(engine) as session:
        by, row = session.merge(person), session.get_one(Project, project.id)
        members.put(session, project=row, user=by, role="lead", by=by, acting=members.ProjectRole.ENGINEER)
        extract = extracts.create(session, project=row, by=by, form=ExtractForm.OWN, container=Container.JSONL)
    extracts.make(engine, storage, extract.id)
    again, _ = jobs.queue, run
    with write_session(engine) as session:
        job, _new = jobs.queue(session, kind=run.job.kind, project_id=project.id, by=session.merge(person), snapshot=1)
        jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(person))
        jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(person))
    assert again
    return project


def said_of(engine: Engine) -> list[str]:
    """Every table that still holds one of their names."""
    with engine.connect() as connection:
        return [
            table.name
            for table in Base.metadata.sorted_tables
            for row in connection.execute(text(f"SELECT * FROM {table.name}"))
            if any(word in json.dumps(row._asdict(), default=str) for word in (WHO, NAME))
        ]


def erase(engine: Engine, storage: Storage, by: User, votes: Votes = Votes.KEEP) -> people.Erased:
    return people.erase(engine, storage, username=WHO, by_id=by.id, votes=votes)


def test_no_row_says_who_it_was(engine: Engine, factory: Factory, storage: Storage, project: Project) -> None:
    assert said_of(engine) != []
    admin = factory.admin()
    told = erase(engine, storage, admin)
    assert said_of(engine) == []
    assert (told.now_called, told.judgments, told.excluded, told.extracts_removed) == (
        "Former evaluator 1",
        2,
        False,
        1,
    )
    assert [(one.project, one.number) for one in told.snapshots] == [(project.slug, 1)]
    assert [one.number for one in told.checkpoints] == [1]
    with read_session(engine) as session:
        assert snapshots.preview(session, project=project).counts.pairs == 3
        assert {one.name for one in snapshots.get(session, 1).statistics.evaluators} >= {"Former evaluator 1"}
    names = {vote["name"] for row in own.rows(engine, project_id=project.id) for vote in row.get("judgments", [])}
    assert "Former evaluator 1" in names
    assert wrong_counts(engine) == []
    with pytest.raises(NotFound):
        erase(engine, storage, admin)


def test_their_votes_are_left_out_where_that_is_wished(
    engine: Engine, factory: Factory, storage: Storage, project: Project
) -> None:
    told = erase(engine, storage, factory.admin(), Votes.EXCLUDE)
    assert told.excluded
    with read_session(engine) as session:
        counts = snapshots.preview(session, project=project).counts
        assert (counts.pairs, counts.excluded_judgments) == (1, 2)
        assert len(session.scalars(select(Judgment)).all()) == 3, "the rows stay"


def test_somebody_whose_votes_came_with_a_file_can_be_erased(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, lead = factory.project(), factory.admin()
    line = {
        "prompt": "Q?",
        "responses": ["Aye.", "No."],
        "judgments": [{"rater": "a" * 40, "name": NAME, "choice": "first"}],
    }
    assert brought(engine, settings, project, lead, [line]).judged == 1
    with read_session(engine) as session:
        rater = session.scalars(select(User).where(User.is_imported)).one()
    told = people.erase(engine, storage, username=rater.username, by_id=lead.id)
    assert told.judgments == 1
    assert said_of(engine) == []


def test_nobody_erases_themselves_and_an_admin_stays(
    engine: Engine, factory: Factory, storage: Storage, person: User
) -> None:
    admin = factory.admin()
    with pytest.raises(Conflict, match="yourself"):
        people.erase(engine, storage, username=admin.username, by_id=admin.id)
    with pytest.raises(Conflict, match="last admin"):
        people.erase(engine, storage, username=admin.username, by_id=None)
    with pytest.raises(NotFound):
        people.erase(engine, storage, username="no\0body", by_id=None)


def test_two_who_are_erased_have_names_of_their_own(engine: Engine, factory: Factory, storage: Storage) -> None:
    admin, one, other = factory.admin(), factory.user(), factory.user()
    told = [people.erase(engine, storage, username=user.username, by_id=admin.id) for user in (one, other)]
    assert [each.now_called for each in told] == ["Former evaluator 1", "Former evaluator 2"]
