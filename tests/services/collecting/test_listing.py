"""Looking at what was collected: filters, a person's history, counts."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from app.db import read_session
from app.models import Project, Split, User
from app.paging import Page, Stretch
from app.services.collecting import listing
from app.services.collecting.listing import Filters, Progress, Row
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


@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize(
    "filters",
    [{"text": "even"}, {"state": "judged"}, {"text": "nothing like it"}, {"split": Split.EVAL, "text": "odd"}],
)
def test_a_search_of_a_large_project_goes_on_to_all_that_a_small_one_shows(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, filters: dict[str, object], seconds: float
) -> None:
    project, other = factory.project(eval_percent=40), factory.project()
    for number in range(23):
        factory.comparison(project, answers=(f"{('even', 'odd')[number % 2]} {number}", "Another."))
        factory.comparison(other, answers=("even", "odd"))
    for _ in range(5):
        factory.judge(project, factory.user())

    def look(**more: int) -> Page[Row] | Stretch[Row]:
        with read_session(factory.engine) as session:
            return listing.comparisons(
                session,
                project=session.merge(project, load=False),
                filters=Filters(**filters),  # type: ignore[arg-type]
                size=100,
                **more,
            )

    expected = [row.comparison.id for row in look().items]
    monkeypatch.setattr(listing, "MOST_COUNTED", 20)
    monkeypatch.setattr(listing, "SEARCHED_AT_ONCE", 4)
    monkeypatch.setattr(listing, "SEARCH_SECONDS", seconds)
    seen, after, looks, searched = [], 0, 0, 0
    while after is not None:
        stretch = look(after=after)
        assert isinstance(stretch, Stretch)
        seen += [row.comparison.id for row in stretch.items]
        after, looks, searched = stretch.after, looks + 1, searched + stretch.searched
    assert seen == expected and searched == 23
    assert looks == (6 if seconds == 0 else 1)


def test_a_search_ends_a_page_where_it_is_full(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factory.project()
    rows = [factory.comparison(project, answers=(f"yes {number}", "no")) for number in range(7)]
    monkeypatch.setattr(listing, "MOST_COUNTED", 5)
    seen, after = [], 0
    with read_session(factory.engine) as session:
        while after is not None:
            page = listing.comparisons(session, project=project, filters=Filters(text="yes"), size=3, after=after)
            assert isinstance(page, Stretch) and len(page.items) <= 3
            seen += [row.comparison.id for row in page.items]
            after = page.after
    assert seen == [row.id for row in rows]


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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_late_pages_and_totals_pass_over_an_index_alone(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    statements: list[tuple[str, object]] = []

    def listen(_connection: object, _cursor: object, statement: str, parameters: object, *_more: object) -> None:
        if "OFFSET" in statement or statement.startswith("SELECT count(*) AS count_1 \nFROM (SELECT"):
            statements.append((statement, parameters))

    event.listen(factory.engine, "before_cursor_execute", listen)
    with read_session(factory.engine) as session:
        listing.comparisons(session, project=project, page=7)
        listing.comparisons(session, project=project, page=7, filters=Filters(import_id=3))
        listing.history(session, project=project, user=user, page=7)
    event.remove(factory.engine, "before_cursor_execute", listen)
    assert len(statements) == 5  # the number of all comparisons is kept
    with factory.engine.connect() as connection:
        for statement, parameters in statements:
            plan = "\n".join(
                str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            assert "USING COVERING INDEX" in plan and "TEMP B-TREE" not in plan, (statement, plan)
