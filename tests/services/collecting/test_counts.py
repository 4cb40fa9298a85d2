"""Kept counts: written once, at the end, by whoever changes what is counted, and never a reason to wait."""

from contextlib import suppress

from sqlalchemy import event, func, select

from app.db import read_session, write_session
from app.models import EvaluatorCount, Judgment, Project, ProjectCount, User
from app.services.collecting import counts, desk, judgments, listing, pairs, projects, recount
from app.services.collecting.counts import Figures
from app.services.collecting.pairs import NewPair
from tests.factory import Factory


def figures(factory: Factory, project: Project, user: User | None = None) -> Figures:
    with read_session(factory.engine) as session:
        return counts.figures(session, project_id=project.id, user_id=user.id if user else 0)


def new_pair(number: int) -> NewPair:
    return NewPair([{"role": "user", "content": f"{number}?"}], ("Yes.", "No."))


def test_figures_follow_what_people_do(factory: Factory) -> None:
    project = factory.project(judgments_per_comparison=2, eval_percent=50)
    ann, bo = factory.user(), factory.user()
    assert figures(factory, project) == Figures()
    with write_session(factory.engine) as session:
        pairs.add_many(session, project=session.merge(project), pairs=[new_pair(number) for number in range(20)])
    fresh = figures(factory, project)
    assert (fresh.comparisons, fresh.wanted, fresh.offered, fresh.judged) == (20, 40, 20, 0)
    assert 0 < fresh.evals < 20
    for person in (ann, bo):
        assert factory.judge(project, person)
    once = figures(factory, project, ann)
    assert (once.done, once.judgments, once.mine, once.known_offered, once.judged) == (2, 2, 1, 1, 0)
    for _ in range(19):
        factory.judge(project, ann)
    assert figures(factory, project, ann).known_offered == 19  # of one pair bo's judgment was the other that is wanted
    for _ in range(19):
        factory.judge(project, bo)
    whole = figures(factory, project, ann)
    assert (whole.done, whole.offered, whole.judged, whole.known_offered, whole.mine) == (40, 0, 20, 0, 20)
    with read_session(factory.engine) as session:
        assert recount.check(session) == []


def test_one_transaction_sees_its_own_changes_before_they_are_written(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 3)
    with write_session(factory.engine) as session:
        here, me = session.merge(project), session.merge(user)
        pair = desk.show_next(session, project=here, user=me)
        assert pair
        judgments.record(session, token=pair.token, user=me, choice="left")
        seen = listing.progress(session, project=here, user=me)
        assert session.scalar(select(func.sum(EvaluatorCount.done))) is None
    assert (seen.mine, seen.done, seen.wanted, seen.waiting_for_me) == (1, 1, 3, 2)
    with read_session(factory.engine) as session:
        assert listing.progress(session, project=project, user=user) == seen


def test_counts_are_the_last_statements_of_a_transaction(factory: Factory) -> None:
    project, user = factory.project(), factory.user()
    factory.comparisons(project, 2)
    statements: list[str] = []
    event.listen(factory.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with write_session(factory.engine) as session:
        me = session.merge(user)
        pair = desk.show_next(session, project=session.merge(project), user=me)
        assert pair
        judgments.record(session, token=pair.token, user=me, choice="left")
    assert [statement.split()[2] for statement in statements if "_counts" in statement and "INSERT" in statement] == [
        "evaluator_counts"
    ]
    assert statements[-1].startswith("INSERT INTO evaluator_counts")


def test_what_is_rolled_back_is_not_counted(factory: Factory) -> None:
    project = factory.project()
    with write_session(factory.engine) as session:
        here = session.merge(project)
        pairs.add_many(session, project=here, pairs=[new_pair(1)])
        with suppress(ZeroDivisionError), session.begin_nested():
            pairs.add_many(session, project=here, pairs=[new_pair(2)])
            raise ZeroDivisionError
        with session.begin_nested():
            pairs.add_many(session, project=here, pairs=[new_pair(3)])
    with suppress(ZeroDivisionError), write_session(factory.engine) as session:
        pairs.add_many(session, project=session.merge(project), pairs=[new_pair(4)])
        raise ZeroDivisionError
    assert figures(factory, project).comparisons == 2
    with read_session(factory.engine) as session:
        assert recount.check(session) == []


def test_an_import_of_many_pairs_writes_one_row(factory: Factory) -> None:
    project = factory.project(judgments_per_comparison=3)
    statements: list[str] = []
    event.listen(factory.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with write_session(factory.engine) as session:
        pairs.add_many(session, project=session.merge(project), pairs=[new_pair(number) for number in range(500)])
    assert sum("_counts" in statement for statement in statements) == 1
    assert figures(factory, project).wanted == 1500


def test_a_rule_that_changes_the_slots_leaves_right_counts(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    factory.comparisons(project, 4)
    for _ in range(3):
        factory.judge(project, user)
    for wanted in (1, 3):
        with write_session(factory.engine) as session:
            here = session.get_one(Project, project.id)
            projects.update(session, project=here, by=session.merge(user), judgments_per_comparison=wanted)
        with read_session(factory.engine) as session:
            assert recount.check(session) == []
        assert figures(factory, project, user).known_offered == (3 if wanted == 3 else 0)


def test_every_project_has_its_counts_from_the_start(factory: Factory) -> None:
    project = factory.project()
    with read_session(factory.engine) as session:
        assert session.get(ProjectCount, project.id) is not None
        assert counts.by_project(session) == {project.id: Figures()}
        assert session.scalar(select(func.count(Judgment.id))) == 0
