"""Where people disagreed, and what was asked before."""

import pytest
from sqlalchemy import Engine, select

from app.db import read_session
from app.models import Choice, Comparison, ExclusionKind, Project
from app.services.loop.generating import evidence
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude

LONG = "Please tell me in a few plain words how a tall ship sails against the wind and what a tack is"


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(judgments_per_comparison=3)


def judge(factory: Factory, project: Project, count: int, *choices: str) -> None:
    """The same choices of people, one after the other, on each of the next pairs."""
    for choice in choices:
        user = factory.user()
        for _ in range(count):
            shown = factory.shown(project, user)
            assert shown is not None
            side = choice
            if choice in ("first", "second"):
                is_left = shown.left.startswith(("Answer one", "One.")) == (choice == "first")
                side = "left" if is_left else "right"
            factory.record(shown.token, user, side)


def disagreement(engine: Engine, project: Project) -> dict[int, float]:
    with read_session(engine) as session:
        prompts = session.scalars(select(Comparison.prompt_id)).all()
        return evidence.disagreement(session, project=session.get_one(Project, project.id), prompts=prompts)


def test_votes_that_differ_are_a_share_of_all_two(engine: Engine, factory: Factory, project: Project) -> None:
    pair = factory.comparison(project)
    judge(factory, project, 1, "first", "second", "first")
    assert disagreement(engine, project) == {pair.prompt_id: pytest.approx(3 / 5)}


def test_who_agreed_skipped_or_judged_alone_says_nothing(engine: Engine, factory: Factory, project: Project) -> None:
    factory.comparison(project)
    judge(factory, project, 1, "first", "skip", "first")
    factory.comparison(project)
    judge(factory, project, 1, "second")
    assert disagreement(engine, project) == {}


def test_a_tie_differs_from_a_choice(engine: Engine, factory: Factory, project: Project) -> None:
    pair = factory.comparison(project)
    judge(factory, project, 1, "first", "tie")
    assert disagreement(engine, project) == {pair.prompt_id: pytest.approx(2 / 3)}


def test_near_duplicates_share_what_is_known(engine: Engine, factory: Factory, project: Project) -> None:
    one = factory.comparison(project, prompt=LONG, answers=("One.", "Two."))
    judge(factory, project, 1, "first", "second")
    other = factory.comparison(project, prompt=LONG.upper(), answers=("Three.", "Four."))
    assert one.prompt_id != other.prompt_id
    told = disagreement(engine, project)
    assert told == {one.prompt_id: pytest.approx(2 / 3), other.prompt_id: pytest.approx(2 / 3)}


def test_gold_questions_and_what_is_left_out_do_not_count(engine: Engine, factory: Factory, project: Project) -> None:
    factory.comparison(project, gold=Choice.FIRST)
    judge(factory, project, 1, "first", "second")
    pair = factory.comparison(project)
    judge(factory, project, 1, "first", "second")
    assert list(disagreement(engine, project)) == [pair.prompt_id]
    exclude(engine, project, ExclusionKind.PAIR.value, pair.id, factory.engineer())
    assert disagreement(engine, project) == {}


def test_the_newest_pairs_are_what_was_asked(
    engine: Engine, factory: Factory, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        factory.comparison(project, prompt=f"Word{number} there", answers=("Yes, Sir", "no"))
    monkeypatch.setattr(evidence, "ASKED", 2)
    with read_session(engine) as session:
        told = evidence.asked(session, project=session.get_one(Project, project.id))
    assert told == [
        frozenset({"word2", "there", "yes,", "sir", "no"}),
        frozenset({"word1", "there", "yes,", "sir", "no"}),
    ]
