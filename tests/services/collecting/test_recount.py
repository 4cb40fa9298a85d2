"""Counting anew: a wrong count is noticed, named and mended, also while people judge."""

import pytest
from sqlalchemy import delete, update

from app.db import read_session, write_session
from app.models import EvaluatorCount, Project, ProjectCount, User
from app.services.collecting import recount
from app.services.collecting.recount import COUNTED, COUNTED_OF_ONE, Wrong
from tests.factory import Factory
from tests.services.collecting.test_slots import at_once


def wrong(factory: Factory) -> list[Wrong]:
    with read_session(factory.engine) as session:
        recount.at_one_moment(session)
        return recount.check(session)


@pytest.fixture
def judged(factory: Factory) -> tuple[Project, User]:
    project, user = factory.project(judgments_per_comparison=2), factory.user()
    factory.comparisons(project, 3)
    factory.judge(project, user)
    assert wrong(factory) == []
    return project, user


@pytest.mark.parametrize("name", COUNTED)
def test_a_wrong_count_of_a_project_is_noticed_and_mended(
    factory: Factory, judged: tuple[Project, User], name: str
) -> None:
    project, _ = judged
    with write_session(factory.engine) as session:
        session.execute(update(ProjectCount).values({name: getattr(ProjectCount, name) + 5}))
    (one,) = wrong(factory)
    assert (one.project_id, one.user_id, one.name, one.kept - one.counted) == (project.id, 0, name, 5)
    with write_session(factory.engine) as session:
        recount.hold_still(session)
        assert recount.repair(session) == [one]
    assert wrong(factory) == []


@pytest.mark.parametrize("name", COUNTED_OF_ONE)
def test_a_wrong_count_of_a_person_is_noticed_and_mended(
    factory: Factory, judged: tuple[Project, User], name: str
) -> None:
    project, user = judged
    with write_session(factory.engine) as session:
        session.execute(update(EvaluatorCount).values({name: getattr(EvaluatorCount, name) - 5}))
    (one,) = wrong(factory)
    assert (one.project_id, one.user_id, one.name, one.counted - one.kept) == (project.id, user.id, name, 5)
    with write_session(factory.engine) as session:
        recount.hold_still(session)
        recount.repair(session)
    assert wrong(factory) == []


def test_counts_that_are_gone_are_counted_anew(factory: Factory, judged: tuple[Project, User]) -> None:
    with write_session(factory.engine) as session:
        session.execute(delete(EvaluatorCount))
        session.execute(delete(ProjectCount))
    assert wrong(factory)
    with write_session(factory.engine) as session:
        recount.hold_still(session)
        recount.repair(session)
    assert wrong(factory) == []


def test_counting_anew_while_people_judge_leaves_right_counts(factory: Factory) -> None:
    project = factory.project(judgments_per_comparison=2)
    factory.comparisons(project, 12)
    people = [factory.user() for _ in range(4)]

    def act(number: int) -> None:
        if number == len(people):
            for _ in range(5):
                with write_session(factory.engine) as session:
                    recount.hold_still(session)
                    recount.repair(session)
            return
        for choice in ("left", "skip", "right", "tie"):
            factory.judge(project, people[number], choice)

    at_once(len(people) + 1, act)
    assert wrong(factory) == []
