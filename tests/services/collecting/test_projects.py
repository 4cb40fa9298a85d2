"""Projects: addresses, rules within limits, counts."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import AuditEntry, Project, User
from app.services.accounts.access import Caller
from app.services.collecting import projects
from app.services.collecting.projects import SLUG, slug_of
from tests.factory import Factory


def changed(factory: Factory, project: Project, **changes: object) -> Project:
    with write_session(factory.engine) as session:
        row = session.get_one(Project, project.id)
        return projects.update(session, project=row, by=session.get_one(User, row.created_by_id), **changes)  # type: ignore[arg-type]


def test_a_taken_address_is_a_conflict_and_leaves_the_session_usable(factory: Factory) -> None:
    user = factory.engineer()
    factory.project(slug="tone")
    with write_session(factory.engine) as session:
        with pytest.raises(Conflict, match="exists already"):
            projects.create(session, slug="tone", name="Tone", by=session.merge(user))
        projects.create(session, slug="tone-2", name="Tone", by=session.merge(user))
    with read_session(factory.engine) as session:
        assert projects.get(session, "tone-2").name == "Tone"


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"slug": "Tone"},
        lambda: {"slug": "-tone"},
        lambda: {"slug": ""},
        lambda: {"slug": "x" * 65},
        lambda: {"slug": "new"},
        lambda: {"slug": "a/b"},
        lambda: {"name": "  "},
        lambda: {"name": "x" * 121},
        lambda: {"description": "a\0"},
        lambda: {"guidelines": "x" * 100_001},
        lambda: {"eval_percent": 51},
        lambda: {"judgments_per_comparison": 0},
        lambda: {"lease_seconds": 29},
        lambda: {"unknown_rule": 1},
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_project_cannot_be_is_refused(factory: Factory, make: Callable[[], dict[str, object]]) -> None:
    user = factory.engineer()
    with write_session(factory.engine) as session, pytest.raises(Invalid):
        projects.create(session, **{"slug": "tone", "name": "Tone", "by": session.merge(user), **make()})  # type: ignore[arg-type]


@given(st.text(max_size=100))
def test_every_name_gives_an_address(name: str) -> None:
    assert SLUG.fullmatch(slug_of(name))


def test_a_change_is_written_down_with_what_was_before(factory: Factory) -> None:
    project = factory.project()
    assert changed(factory, project, daily_goal=30, allow_tie=False, name="New name").daily_goal == 30
    changed(factory, project, daily_goal=30)
    with read_session(factory.engine) as session:
        (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.action == "project.update"))
    assert entry.detail == {
        "before": {"daily_goal": 60, "allow_tie": True, "name": project.name},
        "after": {"daily_goal": 30, "allow_tie": False, "name": "New name"},
    }


def test_the_listing_counts_what_is_there(factory: Factory) -> None:
    first = factory.project(judgments_per_comparison=2)
    factory.comparisons(first, 3)
    user = factory.user()
    factory.judge(first, user, "left")
    factory.judge(first, user, "skip")
    second = factory.project()
    with read_session(factory.engine) as session:
        counts = {
            one.project.slug: (one.comparisons, one.wanted, one.done, one.judgments)
            for one in projects.listing(session, caller=Caller.of(user))
        }
    assert counts == {second.slug: (0, 0, 0, 0), first.slug: (3, 6, 1, 2)}


@pytest.mark.parametrize("slug", ["none", "nul\0", "x" * 5000])
def test_an_unknown_project_is_not_found(factory: Factory, slug: str) -> None:
    with read_session(factory.engine) as session, pytest.raises(NotFound):
        projects.get(session, slug)
