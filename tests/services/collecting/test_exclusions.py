"""What is left out of training, and put back: pairs, judgments, people."""

import pytest
from sqlalchemy import Engine

from app.db import read_session, write_session
from app.errors import Conflict, NotFound, ProjectArchived
from app.models import Exclusion, ExclusionKind, Project, User
from app.services.collecting import exclusions, listing, projects, recount
from app.services.collecting.listing import Filters
from app.services.datasets import snapshots
from app.services.datasets.snapshots import Preview
from tests.factory import Factory


def exclude(engine: Engine, project: Project, kind: str, subject: int, by: User, **more: object) -> Exclusion:
    with write_session(engine) as session:
        return exclusions.exclude(
            session,
            project=session.get_one(Project, project.id),
            kind=ExclusionKind(kind),
            subject_id=subject,
            by=session.merge(by),
            **more,
        )


def lift(engine: Engine, project: Project, row: Exclusion, by: User) -> None:
    with write_session(engine) as session:
        exclusions.lift(
            session, project=session.get_one(Project, project.id), row=session.merge(row), by=session.merge(by)
        )


def preview(engine: Engine, project: Project) -> Preview:
    with read_session(engine) as session:
        return snapshots.preview(session, project=project)


def wrong_counts(engine: Engine) -> list[recount.Wrong]:
    with read_session(engine) as session:
        recount.at_one_moment(session)
        return recount.check(session)


def test_an_excluded_pair_is_not_asked_about_and_comes_back(engine: Engine, factory: Factory) -> None:
    project, lead, evaluator = factory.project(), factory.admin(), factory.user()
    first, second = factory.comparisons(project, 2)
    row = exclude(engine, project, "pair", first.id, lead, reason="  Answers   are cut off. ")
    assert row.reason == "Answers are cut off."
    shown = factory.shown(project, evaluator)
    assert shown is not None and shown.comparison_id == second.id
    factory.record(shown.token, evaluator)
    assert factory.shown(project, evaluator) is None
    assert wrong_counts(engine) == []
    lift(engine, project, row, lead)
    lift(engine, project, row, lead)  # a second click
    again = factory.shown(project, evaluator)
    assert again is not None and again.comparison_id == first.id
    assert wrong_counts(engine) == []


def test_who_has_an_excluded_pair_before_them_may_still_answer(engine: Engine, factory: Factory) -> None:
    project, lead, one, other = factory.project(), factory.admin(), factory.user(), factory.user()
    pair = factory.comparison(project)
    shown = factory.shown(project, one)
    assert shown is not None
    row = exclude(engine, project, "pair", pair.id, lead)
    assert factory.shown(project, other) is None
    assert factory.record(shown.token, one).late
    assert wrong_counts(engine) == []
    lift(engine, project, row, lead)
    assert wrong_counts(engine) == []


def test_new_snapshots_leave_excluded_things_out_and_say_how_many(engine: Engine, factory: Factory) -> None:
    project, lead = factory.judged(6, eval_percent=0), factory.admin()
    assert preview(engine, project).counts.pairs == 6
    exclude(engine, project, "pair", 1, lead)
    exclude(engine, project, "judgment", 2, lead)
    told = preview(engine, project)
    assert (told.counts.pairs, told.counts.judgments, told.counts.excluded_judgments) == (4, 4, 1)
    assert told.counts.left_out == {"excluded": 1, "not_judged": 1}
    assert told.sentence.endswith(
        "from 4 judgments of 6 comparisons (1 more judgment excluded); left out: 1 excluded, 1 without a judgment."
    )
    snapshot = factory.snapshot(project)
    assert snapshot.counts == told.counts


def test_a_person_s_votes_are_left_out_and_put_back(engine: Engine, factory: Factory) -> None:
    project, lead = factory.judged(3, eval_percent=0), factory.admin()
    other = factory.user()
    factory.comparison(project)
    assert factory.judge(project, other)
    row = exclude(engine, project, "person", other.id, lead)
    told = preview(engine, project)
    assert (told.counts.pairs, told.counts.excluded_judgments) == (3, 1)
    assert [one.user_id for one in told.statistics.evaluators] != [other.id]
    lift(engine, project, row, lead)
    assert preview(engine, project).counts.pairs == 4


def test_leaving_out_twice_is_refused_and_history_stays(engine: Engine, factory: Factory) -> None:
    project, lead = factory.judged(2), factory.admin()
    row = exclude(engine, project, "pair", 1, lead, reason="first")
    with pytest.raises(Conflict, match="left out already"):
        exclude(engine, project, "pair", 1, lead)
    lift(engine, project, row, lead)
    exclude(engine, project, "pair", 1, lead, reason="second")
    with read_session(engine) as session:
        told = exclusions.listing(session, project=project).items
    assert [(one.row.reason, one.by, one.lifted_by) for one in told] == [
        ("second", lead.display_name, ""),
        ("first", lead.display_name, lead.display_name),
    ]


def test_what_is_of_another_project_is_not_there(engine: Engine, factory: Factory) -> None:
    project, other, lead = factory.judged(2), factory.project(), factory.admin()
    for kind, subject in (("pair", 1), ("judgment", 1), ("person", lead.id), ("import", 1)):
        with pytest.raises(NotFound):
            exclude(engine, other, kind, subject, lead)
    assert wrong_counts(engine) == []
    assert project.id != other.id


def test_more_wanted_judgments_open_no_slot_of_an_excluded_pair(engine: Engine, factory: Factory) -> None:
    project, lead = factory.project(), factory.admin()
    first, second = factory.comparisons(project, 2)
    row = exclude(engine, project, "pair", first.id, lead)
    with write_session(engine) as session:
        projects.update(
            session, project=session.get_one(Project, project.id), by=session.merge(lead), judgments_per_comparison=3
        )
    with read_session(engine) as session:
        rows = {row.comparison.id: row for row in listing.comparisons(session, project=project).items}
        left_out = listing.comparisons(session, project=project, filters=Filters(state="excluded"))
    assert (rows[first.id].wanted, rows[first.id].excluded, rows[second.id].wanted) == (0, True, 3)
    assert [one.comparison.id for one in left_out.items] == [first.id]
    lift(engine, project, row, lead)
    with read_session(engine) as session:
        rows = {row.comparison.id: row for row in listing.comparisons(session, project=project).items}
    assert (rows[first.id].wanted, rows[first.id].excluded) == (3, False)
    assert wrong_counts(engine) == []


def test_an_archived_project_asks_and_takes_nothing(engine: Engine, factory: Factory) -> None:
    project, lead, evaluator = factory.project(), factory.admin(), factory.user()
    factory.comparisons(project, 2)
    shown = factory.shown(project, evaluator)
    assert shown is not None
    with write_session(engine) as session:
        projects.archive(session, project=session.get_one(Project, project.id), by=session.merge(lead))
        project = projects.get(session, project.slug)
    assert factory.shown(project, evaluator) is None
    with pytest.raises(ProjectArchived, match="Bring it back"):
        factory.record(shown.token, evaluator)
    with pytest.raises(ProjectArchived):
        exclude(engine, project, "pair", 1, lead)
    with write_session(engine) as session:
        projects.bring_back(session, project=session.get_one(Project, project.id), by=session.merge(lead))
        project = projects.get(session, project.slug)
    assert factory.record(shown.token, evaluator)
