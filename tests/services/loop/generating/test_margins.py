"""Whose margins the margin arm goes by, and what that checkpoint thinks of answers."""

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Finish, GeneratedAnswer, JobKind, Project
from app.services.jobs import leases
from app.services.jobs.leases import LeaseLost
from app.services.loop import generations
from app.services.loop.generating import answers, margins, prompts
from app.services.loop.generating.answers import Arrived
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.wanted import AnswerSource
from app.services.loop.generations import Order
from app.services.training import checkpoints
from tests.factory import Factory
from tests.services.loop.labels.studied import Studied
from tests.services.training.trained import trained

HALF = Arms.parse("random=0.5,margin=0.5")


def order(arms: Arms) -> Order:
    return Order(
        sources=[AnswerSource.base("tiny")], samples=2, pairing="round_robin", given=["Why?", "Who?"], arms=arms
    )  # type: ignore[arg-type]


def test_without_a_checkpoint_nothing_has_a_margin(
    engine: Engine, settings: Settings, factory: Factory, tiny: str
) -> None:
    project = factory.project()
    with pytest.raises(Invalid, match=r"no checkpoint, so nothing has a margin yet\. Train once"):
        generations.begin(engine, project=project, by_id=factory.engineer().id, order=order(HALF))
    margins.require(engine, settings, project=project, arms=Arms())


def test_the_newest_checkpoint_is_fixed_with_the_plan(engine: Engine, settings: Settings, factory: Factory) -> None:
    by = factory.engineer()
    project = factory.judged(8, eval_percent=0)
    trained(engine, settings, project, by)
    factory.comparison(project)
    factory.judge(project, factory.user())
    _, newest = trained(engine, settings, project, by)
    once = {"project": project, "by_id": by.id, "order": order(HALF), "idempotency_key": "once"}
    plan = generations.begin(engine, **once)  # type: ignore[arg-type]
    assert plan.arms == {"shares": {"random": 0.5, "margin": 0.5}, "keep": 0.5, "checkpoint": newest.id}
    with read_session(engine) as session:
        told = generations.estimate(session, project=session.get_one(Project, project.id), order=order(HALF)).sentences
    assert f"Checkpoint {newest.id} and its base score the answers" in told[-1]
    trained(engine, settings, factory.judged(8, eval_percent=0), by)
    assert generations.begin(engine, **once).job_id == plan.job_id  # type: ignore[arg-type]


def test_a_checkpoint_without_somebodys_votes_only_measures(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    studied = Studied(engine, settings, factory, count=16)
    made = studied.begin(studied.ben)
    studied.finish(made)
    with read_session(engine) as session:
        project = session.get_one(Project, studied.project.id)
        newest = checkpoints.get(session, margins.checkpoint_of(session, project=project, arms=HALF) or 0)
    left_out = {row.job_id: row.user_id for row in studied.runs_of(made)}
    assert studied.ben.id in left_out.values()
    assert left_out.get(newest.job_id) is None


def test_rewards_are_noted_under_the_lease(engine: Engine, settings: Settings, factory: Factory, tiny: str) -> None:
    project = factory.project()
    generations.begin(engine, project=project, by_id=factory.engineer().id, order=order(Arms()))
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        first, _ = prompts.messages_of(session, ids=generations.prompt_ids(generations.get(session, job.id)))
        told = [Arrived(first, 0, sample, 1, f"Answer {sample}.", Finish.STOP) for sample in (0, 1)]
        answers.store(session, job_id=job.id, arrived=told)
    margins.note(engine, job_id=job.id, token=job.lease_token or "", rewards={(first, 0, 1): -2.5, (99, 0, 0): 1.0})
    with read_session(engine) as session:
        kept = session.execute(select(GeneratedAnswer.sample, GeneratedAnswer.reward)).tuples()
        assert dict(kept.all()) == {0: None, 1: -2.5}
    with pytest.raises(LeaseLost):
        margins.note(engine, job_id=job.id, token="another", rewards={(first, 0, 0): 1.0})
