"""Answers as they arrive: stored once, whatever they hold, and only for prompts that are there."""

import pytest
from sqlalchemy import Engine, select

from app.db import read_session, write_session
from app.models import Finish, GeneratedAnswer, GenerationPlan, Pairing
from app.services.loop import generations
from app.services.loop.generating import answers, prompts
from app.services.loop.generating.answers import Arrived
from app.services.loop.generating.wanted import AnswerSource, Sampling
from tests.factory import Factory


@pytest.fixture
def plan(engine: Engine, factory: Factory) -> GenerationPlan:
    project = factory.project()
    ids = prompts.store(engine, project_id=project.id, given=prompts.read_given(["One?", "Two?"]))
    with write_session(engine) as session:
        return generations.start(
            session,
            project=session.merge(project),
            by=None,
            sources=[AnswerSource.base("tiny")],
            sampling=Sampling(),
            prompts=ids,
            samples=2,
            pairing=Pairing.ROUND_ROBIN,
        )


def arrived(plan: GenerationPlan, number: int, sample: int = 0, text: str = "Aye.", **more: object) -> Arrived:
    ids = [*plan.prompts["ids"], 999]
    return Arrived(ids[number], 0, sample, 5, text, **{"finish": Finish.STOP, **more})


def store(engine: Engine, plan: GenerationPlan, *given: Arrived) -> int:
    with write_session(engine) as session:
        return answers.store(session, job_id=plan.job_id, arrived=given)


def test_an_answer_is_stored_once(engine: Engine, plan: GenerationPlan) -> None:
    assert store(engine, plan, arrived(plan, 0, text="First."), arrived(plan, 1)) == 2
    assert store(engine, plan, arrived(plan, 0, text="Second."), arrived(plan, 0, 1)) == 1
    with read_session(engine) as session:
        assert answers.count(session, job_id=plan.job_id) == 3
        told = session.scalars(select(GeneratedAnswer.text).order_by(GeneratedAnswer.id)).all()
        assert told == ["First.", "Aye.", "Aye."]


def test_what_a_database_refuses_is_replaced(engine: Engine, plan: GenerationPlan) -> None:
    store(engine, plan, arrived(plan, 0, text="a\x00b\ud800c"))
    with read_session(engine) as session:
        assert session.scalars(select(GeneratedAnswer.text)).one() == "a\ufffdb?c"


def test_an_answer_to_a_prompt_that_is_gone_is_dropped(engine: Engine, plan: GenerationPlan) -> None:
    assert store(engine, plan, arrived(plan, 2)) == 0


def test_failed_answers_are_forgotten_and_asked_again(engine: Engine, plan: GenerationPlan) -> None:
    store(engine, plan, arrived(plan, 0), arrived(plan, 1, finish=Finish.FAILED, text="why " * 500))
    with read_session(engine) as session:
        assert len(answers.places(session, job_id=plan.job_id)) == 2
        assert len(answers.places(session, job_id=plan.job_id, given=True)) == 1
        assert max(len(text) for text in session.scalars(select(GeneratedAnswer.text))) == 500
    with write_session(engine) as session:
        answers.forget_failed(session, job_id=plan.job_id)
    assert store(engine, plan, arrived(plan, 1)) == 1


def test_a_page_of_answers_comes_with_its_prompts_and_by_mark(engine: Engine, plan: GenerationPlan) -> None:
    store(engine, plan, arrived(plan, 0), arrived(plan, 0, 1), arrived(plan, 1))
    with write_session(engine) as session:
        rows = answers.of_prompts(session, job_id=plan.job_id, prompts=plan.prompts["ids"])
        first = rows[plan.prompts["ids"][0]][0]
        answers.mark(session, job_id=plan.job_id, marks=[(first, ["at_limit"], None)])
    with read_session(engine) as session:
        page = answers.listing(session, job_id=plan.job_id, size=2)
        assert (page.total, len(page.items)) == (3, 2)
        assert page.items[0][1].messages == [{"role": "user", "content": "One?"}]
        (marked,) = answers.listing(session, job_id=plan.job_id, mark="at_limit").items
        assert marked[0].id == first.id
        assert answers.listing(session, job_id=plan.job_id, mark="%").total == 0
