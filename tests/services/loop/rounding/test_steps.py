"""A round from answers to verdict, with a worker and people whose part a test plays."""

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import OperationalError

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Arm,
    Comparison,
    Evaluation,
    EvaluationPair,
    Finish,
    GenerationPlan,
    Job,
    JobKind,
    JobState,
    Project,
    Prompt,
    Round,
    RoundState,
    RoundStep,
    Split,
    User,
)
from app.models.base import now as utc_now
from app.services.accounts.access import Caller
from app.services.jobs import jobs, leases
from app.services.loop import evaluations
from app.services.loop.generating import answers, making
from app.services.loop.generating.answers import Arrived
from app.services.loop.rounding import rounds, steps
from app.services.loop.rounding.plan import RoundPlan
from app.services.training import runs
from app.storage import get_storage
from tests.factory import Factory
from tests.pretend_worker import PretendWorker, prepare_model
from tests.services.loop.batch import LATER
from tests.services.training.trained import trained

PLAN = {
    "base_model": "tiny",
    "sources": ["base:tiny"],
    "samples": 2,
    "limit": 6,
    "config": {"max_steps": 5},
    "evaluation": {"maximum": 4},
}


class Played:
    """A project with prompts of both splits, its engineer, its evaluators, and a round that they go through."""

    def __init__(self, engine: Engine, settings: Settings, factory: Factory) -> None:
        self.engine, self.settings, self.factory = engine, settings, factory
        prepare_model(settings)
        self.storage = get_storage(settings)
        self.engineer = factory.engineer()
        self.evaluators = [factory.user(), factory.user()]
        self.project: Project = factory.project(eval_percent=0)
        with write_session(engine) as session:
            session.add_all(
                Prompt(
                    project_id=self.project.id,
                    content_hash=f"{random.getrandbits(256):064x}",
                    messages=[{"role": "user", "content": f"How is {random.getrandbits(60)} done?"}],
                    split=Split.EVAL if number < 4 else Split.TRAIN,
                )
                for number in range(10)
            )
        self.round: Round = self.start()

    def start(self, **more: object) -> Round:
        with write_session(self.engine) as session:
            project, by = session.merge(self.project), session.merge(self.engineer)
            return rounds.start(session, project=project, plan=RoundPlan.of(PLAN | more), by=by)[0]

    def on(self) -> Round:
        steps.advance(self.engine, self.storage, self.round.id)
        return self.now()

    def now(self) -> Round:
        with read_session(self.engine) as session:
            return rounds.get(session, self.round.id)

    def answered(self) -> None:
        """A worker makes the answers of the generation that waits."""
        with write_session(self.engine) as session:
            job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
            assert job is not None
        token = job.lease_token or ""
        with read_session(self.engine) as session:
            from app.services.loop import generations

            plan = generations.get(session, job.id)
        told = [
            Arrived(prompt, source, sample, 1, f"Words {source} {sample} of {prompt}.", Finish.STOP, 4, 3)
            for prompt in plan.prompts["ids"]
            for source in range(len(plan.sources))
            for sample in range(plan.samples)
        ]
        with write_session(self.engine) as session:
            answers.store(session, job_id=job.id, arrived=told)
        if plan.evaluation_id is None:
            making.pair(self.engine, job_id=job.id, token=token)
        with write_session(self.engine) as session:
            if plan.evaluation_id is not None:
                evaluations.seed(session, evaluation_id=plan.evaluation_id)
            leases.succeed(session, job_id=job.id, token=token)

    def judged(self) -> int:
        """People judge until nothing waits for them."""
        return sum(
            1 for user in self.evaluators for _ in iter(lambda user=user: self.factory.judge(self.project, user), None)
        )


@pytest.fixture
def played(engine: Engine, settings: Settings, factory: Factory) -> Played:
    return Played(engine, settings, factory)


def test_a_round_goes_from_answers_to_its_verdict(engine: Engine, settings: Settings, played: Played) -> None:
    assert played.on().step is RoundStep.ANSWERS
    assert played.on().generation_job_id == played.now().generation_job_id, "asked once"
    played.answered()
    row = played.on()
    assert (row.step, row.judged_before) == (RoundStep.JUDGMENTS, 0)
    with read_session(engine) as session:
        assert steps.waits_for(session, row) == 6
    assert played.judged() >= 6
    row = played.on()
    assert (row.step, row.snapshot_id is None) == (RoundStep.TRAINING, False)
    worker = PretendWorker(engine, settings)
    assert worker.claim().id == row.training_job_id
    checkpoint = worker.publish()
    row = played.on()
    assert (row.step, row.checkpoint_id) == (RoundStep.EVALUATION, checkpoint.id)
    with read_session(engine) as session:
        evaluation = evaluations.get(session, row.evaluation_id or 0)
    assert (evaluation.maximum, evaluation.opponent_model) == (4, "tiny")
    played.answered()
    assert played.on().step is RoundStep.EVALUATION
    played.judged()
    with write_session(engine) as session:
        evaluations.settle(session, evaluation.id, now=utc_now() + LATER)
    row = played.on()
    assert (row.state, row.step, row.ended_at is None) == (RoundState.FINISHED, RoundStep.VERDICT, False)
    assert not steps.advance(engine, played.storage, row.id)


def test_a_round_without_new_answers_or_evaluation_judges_trains_and_ends(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    prepare_model(settings)
    project, engineer = factory.judged(6, eval_percent=0), factory.engineer()
    with write_session(engine) as session:
        plan = RoundPlan.of({"base_model": "tiny", "opponent": ""})
        row, _ = rounds.start(session, project=session.merge(project), plan=plan, by=session.merge(engineer))
    storage = get_storage(settings)
    steps.advance(engine, storage, row.id)
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    assert steps.advance_all(engine, storage) == [row.id]
    with read_session(engine) as session:
        ended = rounds.get(session, row.id)
    assert (ended.state, ended.evaluation_id) == (RoundState.FINISHED, None)


def test_so_many_judgments_are_waited_for_as_were_wished(engine: Engine, settings: Settings, factory: Factory) -> None:
    prepare_model(settings)
    project, engineer, person = factory.judged(3, eval_percent=0), factory.engineer(), factory.user()
    factory.comparisons(project, 5)
    with write_session(engine) as session:
        plan = RoundPlan.of({"base_model": "tiny", "judgments": 2})
        row, _ = rounds.start(session, project=session.merge(project), plan=plan, by=session.merge(engineer))
    storage = get_storage(settings)
    left = []
    for _ in range(3):
        steps.advance(engine, storage, row.id)
        with read_session(engine) as session:
            now = rounds.get(session, row.id)
            left.append(steps.waits_for(session, now) if now.step is RoundStep.JUDGMENTS else 0)
        factory.judge(project, person)
    assert left == [2, 1, 0]


def test_a_failed_job_fails_the_round_and_retry_goes_on_from_there(
    engine: Engine, settings: Settings, played: Played
) -> None:
    played.on()
    job_id = played.now().generation_job_id
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        leases.fail(session, job_id=job.id, token=job.lease_token or "", code="killed", error="No memory was left.")
    row = played.on()
    assert row.state is RoundState.FAILED and "No memory was left." in row.problem
    with write_session(engine) as session:
        rounds.retry(session, row=rounds.get(session, row.id), by=session.merge(played.engineer))
    with read_session(engine) as session:
        assert jobs.get(session, job_id or 0).state is JobState.QUEUED
    played.answered()
    assert played.on().step is RoundStep.JUDGMENTS


def test_nothing_to_train_on_fails_in_words(engine: Engine, settings: Settings, factory: Factory) -> None:
    prepare_model(settings)
    project, engineer = factory.project(), factory.engineer()
    with write_session(engine) as session:
        plan = RoundPlan.of({"base_model": "tiny"})
        row, _ = rounds.start(session, project=session.merge(project), plan=plan, by=session.merge(engineer))
    steps.advance(engine, get_storage(settings), row.id)
    with read_session(engine) as session:
        failed = rounds.get(session, row.id)
    assert failed.state is RoundState.FAILED and "no comparisons yet" in failed.problem


def test_whoever_started_it_must_still_be_an_engineer(engine: Engine, played: Played) -> None:
    with write_session(engine) as session:
        session.execute(update(User).where(User.id == played.engineer.id).values(active=False))
    row = played.on()
    assert row.state is RoundState.FAILED and "isn't an engineer" in row.problem
    with read_session(engine) as session:
        assert session.scalars(select(Job)).all() == []


def test_stopping_cancels_what_runs_for_it(engine: Engine, played: Played) -> None:
    played.on()
    with write_session(engine) as session:
        row = rounds.stop(session, row=rounds.get(session, played.round.id), by=session.merge(played.engineer))
        again = rounds.stop(session, row=row, by=session.merge(played.engineer))
    assert (row.state, again.state) == (RoundState.STOPPED, RoundState.STOPPED)
    with read_session(engine) as session:
        assert jobs.get(session, row.generation_job_id or 0).state is JobState.CANCELLED
    assert played.on().state is RoundState.STOPPED


def test_an_evaluation_that_is_there_already_is_the_round_s(engine: Engine, settings: Settings, played: Played) -> None:
    """As after a kill between starting it and writing it down."""
    played.on()
    played.answered()
    played.on()
    played.judged()
    played.on()
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    row = played.on()
    with write_session(engine) as session:
        session.execute(update(Round).where(Round.id == row.id).values(evaluation_id=None))
    assert played.on().evaluation_id == row.evaluation_id
    with read_session(engine) as session:
        assert len(session.scalars(select(Evaluation)).all()) == 1
        assert session.scalars(select(EvaluationPair)).all()


def test_two_web_servers_start_one_evaluation(
    engine: Engine, settings: Settings, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    for act in (played.on, played.answered, played.on, played.judged, played.on):
        act()
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    row = played.on()
    real, looks = evaluations.listing, []

    def too_early(*args: Any, **more: Any) -> Any:
        page = real(*args, **more)
        looks.append(page)
        return replace(page, items=[]) if len(looks) == 1 else page

    monkeypatch.setattr(evaluations, "listing", too_early)
    with write_session(engine) as session:
        session.execute(update(Round).where(Round.id == row.id).values(evaluation_id=None))
    again = played.on()
    assert (again.state, again.evaluation_id, len(looks)) == (RoundState.RUNNING, row.evaluation_id, 2)


def test_one_round_at_a_time_and_the_same_wish_finds_it(engine: Engine, played: Played) -> None:
    assert played.start().id == played.round.id
    with pytest.raises(Conflict, match="hasn't ended"):
        played.start(limit=5)


def test_the_next_round_goes_on_from_the_checkpoint_and_blind_judgments_are_none_of_its_own(
    engine: Engine, settings: Settings, played: Played, factory: Factory
) -> None:
    played.on()
    played.answered()
    played.on()
    played.judged()
    played.on()
    worker = PretendWorker(engine, settings)
    worker.claim()
    checkpoint = worker.publish()
    played.on()
    played.answered()
    with write_session(engine) as session:  # its evaluation asks on
        session.execute(update(Round).values(state=RoundState.FINISHED, ended_at=utc_now()))
    start = {"from_checkpoint": checkpoint.id, "new_pairs_only": True, "sources": (), "judgments": 2}
    played.round = played.start(**start)
    assert played.start(**start).id == played.round.id, "the same wish"

    def waits() -> int:
        with read_session(engine) as session:
            return steps.waits_for(session, rounds.get(session, played.round.id))

    assert played.judged() == 4 and waits() == 2, "the four are the blind batch's"
    factory.comparisons(played.project, 3)
    assert factory.judge(played.project, played.engineer) and waits() == 1
    played.judged()
    row = played.on()
    with read_session(engine) as session:
        run = runs.get(session, row.training_job_id or 0)
    assert (run.parent_id, run.snapshot.rule["new_to_checkpoint"]) == (checkpoint.id, checkpoint.id)
    assert run.snapshot.counts.train == 3
    worker.claim()
    worker.publish()
    with read_session(engine) as session:
        evaluation = evaluations.get(session, played.on().evaluation_id or 0)
    assert evaluation.opponent_id == checkpoint.id, "its parent"


def test_a_round_that_cannot_start_from_its_checkpoint_is_refused_before_anybody_judges(
    engine: Engine, settings: Settings, played: Played, factory: Factory
) -> None:
    hidden = factory.project(by=played.engineer, eval_percent=0, open_to_everybody=False)
    factory.comparison(hidden)
    assert factory.judge(hidden, played.engineer)
    _, checkpoint = trained(engine, settings, hidden, played.engineer)
    plan = RoundPlan.of({"base_model": "tiny", "from_checkpoint": checkpoint.id})
    steps.require(engine, plan, project=hidden, caller=Caller.of(played.engineer))
    with pytest.raises(NotFound, match=f"no checkpoint {checkpoint.id}"):
        steps.require(engine, plan, project=hidden, caller=Caller.of(factory.engineer()))
    with pytest.raises(Invalid, match="LoRA rank"):
        steps.require(engine, replace(plan, config={"lora_r": 3}), project=hidden)
    with pytest.raises(Invalid, match="was trained on tiny"):
        steps.require(engine, replace(plan, base_model="other"), project=hidden)
    with pytest.raises(Invalid, match="no checkpoint that they are new to"):
        RoundPlan.of({"base_model": "tiny", "new_pairs_only": True})


def test_an_opponent_that_is_not_there_is_refused_before_anybody_judges(
    engine: Engine, settings: Settings, played: Played, factory: Factory
) -> None:
    others = factory.judged(4)
    _, theirs = trained(engine, settings, others, played.engineer)
    for number in (theirs.id, 999):
        plan = RoundPlan.of({"base_model": "tiny", "opponent": str(number)})
        with pytest.raises(NotFound, match=f"no checkpoint {number}") as refused:
            steps.require(engine, plan, project=played.project)
        assert refused.value.details["field"] == "opponent"
    steps.require(engine, RoundPlan.of({"base_model": "tiny", "opponent": str(theirs.id)}), project=others)


def test_what_nobody_thought_of_fails_the_round_in_words_and_retry_goes_on(
    engine: Engine, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setitem(steps.DOES, RoundStep.ANSWERS, broken)
        assert steps.advance_all(engine, played.storage) == [played.round.id]
    row = played.now()
    assert row.state is RoundState.FAILED
    assert "answers" in row.problem and "OSError: No space left on device" in row.problem and "Retry" in row.problem
    with write_session(engine) as session:
        rounds.retry(session, row=rounds.get(session, row.id), by=session.merge(played.engineer))
    assert played.on().generation_job_id is not None


def test_a_database_that_is_away_fails_no_round(
    engine: Engine, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setitem(steps.DOES, RoundStep.ANSWERS, away)
    assert steps.advance_all(engine, played.storage) == []
    assert played.now().state is RoundState.RUNNING


def test_its_generation_asks_by_the_round_s_arms(played: Played) -> None:
    with write_session(played.engine) as session:
        rounds.stop(session, row=rounds.get(session, played.round.id), by=session.merge(played.engineer))
    arms = {"arms": {"random": 0.5, "diversity": 0.5}, "keep": 0.5}
    played.round = played.start(**arms, samples=3)
    played.on()
    with read_session(played.engine) as session:
        made = session.get_one(GenerationPlan, played.now().generation_job_id)
    assert made.arms == {"shares": arms["arms"], "keep": 0.5}
    played.answered()
    with read_session(played.engine) as session:
        asked = [row.arm for row in session.scalars(select(Comparison))]
    assert set(asked) == {Arm.RANDOM, Arm.DIVERSITY}
    assert 7 <= len(asked) <= 9, "about half of three pairs a prompt"


def test_a_margin_arm_without_a_checkpoint_is_refused_before_anybody_judges(played: Played) -> None:
    plan = RoundPlan.of(PLAN | {"arms": {"random": 0.5, "margin": 0.5}})
    with pytest.raises(Invalid, match="no checkpoint, so nothing has a margin yet"):
        steps.require(played.engine, plan, project=played.project)
