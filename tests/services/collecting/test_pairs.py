"""Pairs: stored once whatever comes, with a split that follows from the content."""

import pytest
from sqlalchemy import func, select

from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Prompt, Response, Split, User
from app.services.collecting import pairs, projects
from tests.factory import Factory


def test_the_same_pair_is_stored_once_whichever_answer_comes_first(factory: Factory) -> None:
    project = factory.project()
    one = factory.comparison(project, prompt="Why?", answers=("A.", "B."))
    with write_session(factory.engine) as session:
        other, added = pairs.add(session, project=session.merge(project), prompt="Why?", responses=("B.", "A."))
        assert (other.id, added) == (one.id, False)
        assert session.scalar(select(func.count(Prompt.id))) == 1
        assert session.scalar(select(func.count(Response.id))) == 2


def test_an_answer_is_shared_by_the_pairs_that_it_is_in(factory: Factory) -> None:
    project = factory.project()
    for answers in (("A.", "B."), ("B.", "C."), ("C.", "A.")):
        factory.comparison(project, prompt="Why?", answers=answers)
    with read_session(factory.engine) as reading:
        assert reading.scalar(select(func.count(Response.id))) == 3
        assert reading.scalar(select(func.count(Prompt.id))) == 1


@pytest.mark.parametrize(
    ("prompt", "answers", "reason"),
    [
        ("", ("A", "B"), "empty_prompt"),
        ("Q", ("A", "A "), "identical_answers"),
        ("Q", ("A", " "), "empty_answer"),
        ("Q", ("A", "B\0"), "nul_character"),
        ("Q", ("A", "B", "C"), "not_two_answers"),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], ("A", "B"), "bad_roles"),
        ([{"role": "king", "content": "Q"}], ("A", "B"), "bad_roles"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_unfit_pair_is_refused_with_its_reason(
    factory: Factory, prompt: object, answers: tuple[str, ...], reason: str
) -> None:
    project = factory.project()
    with write_session(factory.engine) as session, pytest.raises(Invalid) as refused:
        pairs.add(session, project=session.merge(project), prompt=prompt, responses=answers)
    assert refused.value.details["reason"] == reason


def test_a_prompt_keeps_its_split_when_the_project_changes_its_share(factory: Factory) -> None:
    project = factory.project(eval_percent=0)
    factory.comparison(project, prompt="Same?")
    with write_session(factory.engine) as session:
        projects.update(
            session, project=session.merge(project), by=session.get_one(User, project.created_by_id), eval_percent=50
        )
    project.eval_percent = 50
    with write_session(factory.engine) as session:
        for number in range(40):
            pairs.add(
                session,
                project=session.merge(project),
                prompt="Same?" if number == 0 else f"{number}?",
                responses=(f"x{number}", "y"),
            )
    with read_session(factory.engine) as session:
        splits = {prompt.messages[0]["content"]: prompt.split for prompt in session.scalars(select(Prompt))}
    assert splits["Same?"] is Split.TRAIN
    assert Split.EVAL in splits.values()


def test_the_split_follows_from_the_content_alone() -> None:
    from app.services.collecting.messages import prompt_hash

    splits = [pairs.split_of(prompt_hash([{"role": "user", "content": str(number)}]), 10) for number in range(2000)]
    assert splits == [
        pairs.split_of(prompt_hash([{"role": "user", "content": str(number)}]), 10) for number in range(2000)
    ]
    assert 140 < splits.count(Split.EVAL) < 260
