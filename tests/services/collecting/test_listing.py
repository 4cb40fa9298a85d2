"""Looking at what was collected: filters, a person's history, counts."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import read_session
from app.models import Project, Split, User
from app.services.collecting import listing
from app.services.collecting.listing import Filters, Progress
from app.services.collecting.pairs import Source, SourceKind
from tests.factory import Factory


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(lease_seconds=60)


def progress(factory: Factory, project: Project, user: User, **more: object) -> Progress:
    with read_session(factory.engine) as session:
        return listing.progress(session, project=project, user=user, **more)


def test_the_listing_filters_by_state_split_source_and_text(factory: Factory) -> None:
    project = factory.project()
    one = factory.comparison(project, answers=("50% off", "No."), sources=(Source(SourceKind.MODEL, "alpha"), Source()))
    other = factory.comparison(project, answers=("500 off", "Yes."))
    factory.judge(project, factory.user())

    def ids(**filters: object) -> list[int]:
        with read_session(factory.engine) as session:
            return [
                row.comparison.id
                for row in listing.comparisons(
                    session, project=session.merge(project, load=False), filters=Filters(**filters)
                ).items
            ]  # type: ignore[arg-type]

    assert ids() == [one.id, other.id]
    assert (ids(state="judged"), ids(state="waiting")) == ([one.id], [other.id])
    assert ids(source="alpha") == [one.id]
    assert ids(text="50%") == [one.id]
    assert ids(split=Split.TRAIN) + ids(split=Split.EVAL) in ([one.id, other.id], [other.id, one.id])
    with read_session(factory.engine) as session:
        (row,) = listing.comparisons(
            session, project=session.merge(project, load=False), filters=Filters(state="judged")
        ).items
    assert (row.wanted, row.done, sum(row.votes.values())) == (1, 1, 1)


def test_progress_counts_this_persons_day_and_what_waits(factory: Factory, project: Project) -> None:
    user, other = factory.user(), factory.user()
    factory.comparisons(project, 4)
    noon = datetime(2030, 5, 17, 12, tzinfo=UTC)
    for at in (noon - timedelta(days=1), noon):
        factory.record(factory.shown(project, user, now=at).token, user, "left", now=at)
    factory.record(factory.shown(project, user, now=noon).token, user, "skip", now=noon)
    assert progress(factory, project, user, now=noon) == Progress(
        today=2, goal=60, mine=3, done=2, wanted=4, waiting_for_me=1
    )
    factory.shown(project, other, now=noon)
    assert progress(factory, project, user, now=noon).waiting_for_me == 1
    assert progress(factory, project, other, now=noon).waiting_for_me == 2


def test_history_shows_ones_own_current_judgments_as_they_were_seen(factory: Factory, project: Project) -> None:
    user = factory.user()
    factory.comparisons(project, 3)
    pairs = []
    for _ in range(3):
        pairs.append(factory.shown(project, user))
        factory.record(pairs[-1].token, user, "right")
    factory.judge(factory.project(), factory.user())
    with read_session(factory.engine) as session:
        page = listing.history(session, project=project, user=user, size=2)
    assert (page.total, page.pages, page.has_next) == (3, 2, True)
    assert [(entry.left, entry.right, entry.choice) for entry in page.items] == [
        (pair.left, pair.right, "right") for pair in reversed(pairs[1:])
    ]
