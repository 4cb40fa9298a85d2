"""A batch is started with its job, and stopped with it."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid
from app.models import AuditEntry, Evaluation, EvaluationState, GenerationPlan, Job, JobState, Project, Split
from app.services.loop import batches, evaluations
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.loop.batch import Batch


@pytest.fixture
def batch(engine: Engine, settings: Settings, factory: Factory) -> Batch:
    return Batch(engine, settings, factory)


def start(batch: Batch, settings: Settings, **plan: object) -> Evaluation:
    wanted = Wanted(**plan)  # type: ignore[arg-type]
    return batches.start(
        batch.engine, settings, checkpoint_id=batch.checkpoint.id, by_id=batch.engineer.id, wanted=wanted
    )


def test_both_sides_answer_the_same_prompts_with_the_same_settings(batch: Batch, settings: Settings) -> None:
    batch.prompts(5)
    made = start(batch, settings, sampling={"temperature": 0.5}, maximum=4)
    with read_session(batch.engine) as session:
        plan = session.get_one(GenerationPlan, made.job_id)
        assert plan.evaluation_id == made.id and plan.sampling == made.sampling and plan.samples == 1
        assert [source["kind"] for source in plan.sources] == ["checkpoint", "base"]
        assert plan.prompts["ids"] == [pair.prompt_id for pair in batch.pairs(made)]
        assert made.sampling == {"temperature": 0.5, "top_p": 0.95, "max_new_tokens": 256, "seed": made.seed}
        assert evaluations.is_as_planned(session, evaluations.get(session, made.id))
    assert batch.answered(made).state is EvaluationState.ASKING
    with pytest.raises(Conflict):
        start(batch, settings)


def test_without_prompts_it_says_what_would_help(batch: Batch, settings: Settings) -> None:
    with pytest.raises(Invalid, match="no prompts of the eval split"):
        start(batch, settings)
    batch.prompts(2)
    with pytest.raises(Invalid, match="no prompts kept for evaluation"):
        start(batch, settings, prompts=Split.KEPT)


def test_prompts_that_everybody_knows_are_no_prompts(engine: Engine, settings: Settings, factory: Factory) -> None:
    batch = Batch(engine, settings, factory, people=0, open_to_everybody=False)
    batch.prompts(2)
    with pytest.raises(Invalid, match="2 are known to everybody"):
        start(batch, settings, votes=2)


def test_stopping_cancels_the_job(batch: Batch, settings: Settings) -> None:
    batch.prompts(2)
    made = start(batch, settings)
    with write_session(batch.engine) as session:
        batches.stop(session, evaluation=evaluations.get(session, made.id), by=batch.engineer)
    with read_session(batch.engine) as session:
        assert session.get_one(Job, made.job_id).state is JobState.CANCELLED
        assert evaluations.get(session, made.id).state is EvaluationState.STOPPED


def test_a_project_may_have_each_new_checkpoint_compared(batch: Batch) -> None:
    batch.prompts(2, split=Split.KEPT)
    assert batches.start_by_itself(batch.engine, checkpoint_id=batch.checkpoint.id) is None
    with write_session(batch.engine) as session:
        session.get_one(Project, batch.project.id).evaluates_runs = True
    batches.Evaluate(batch.checkpoint.id).carry_out(batch.engine)
    with read_session(batch.engine) as session:
        (made,) = session.scalars(select(Evaluation)).all()
        assert made.prompts["of"] == "kept" and made.checkpoint_id == batch.checkpoint.id
        assert session.scalar(select(AuditEntry).where(AuditEntry.action == "evaluation.create")) is not None
    assert batches.start_by_itself(batch.engine, checkpoint_id=batch.checkpoint.id) is None  # once


def test_what_keeps_one_from_starting_by_itself_fails_nothing(batch: Batch) -> None:
    with write_session(batch.engine) as session:
        session.get_one(Project, batch.project.id).evaluates_runs = True
    assert batches.start_by_itself(batch.engine, checkpoint_id=batch.checkpoint.id) is None


def missed(batch: Batch, minutes: int) -> list[int]:
    made = batches.start_missed(batch.engine, now=batch.checkpoint.created_at + timedelta(minutes=minutes))
    return [one.checkpoint_id for one in made]


def test_what_a_killed_worker_did_not_start_is_started_once(batch: Batch) -> None:
    batch.prompts(2)
    assert missed(batch, 5) == [], "the project compares no run by itself"
    with write_session(batch.engine) as session:
        session.get_one(Project, batch.project.id).evaluates_runs = True
    assert missed(batch, 0) == missed(batch, 2 * 24 * 60) == [], "its worker is at it, or it is long ago"
    assert missed(batch, 5) == [batch.checkpoint.id]
    assert missed(batch, 5) == []
    with read_session(batch.engine) as session:
        assert session.scalars(select(Evaluation.checkpoint_id)).all() == [batch.checkpoint.id]


def test_what_was_refused_is_not_tried_again(batch: Batch) -> None:
    with write_session(batch.engine) as session:
        session.get_one(Project, batch.project.id).evaluates_runs = True
    assert missed(batch, 5) == []
    with read_session(batch.engine) as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "evaluation.not_started")).one()
        assert entry.target == f"checkpoint {batch.checkpoint.id}" and "no prompts" in entry.detail["reason"]
    batch.prompts(2)
    assert missed(batch, 5) == [], "its page offers it by a button"
