"""The way of a generation with real processes: a worker, the engine and a tiny model; killed in the middle, cancelled, tried again."""

import json
import os
import signal
from itertools import combinations
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import aliased

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import (
    Arm,
    Comparison,
    EvaluationState,
    Finish,
    GeneratedAnswer,
    GenerationPlan,
    JobState,
    Pairing,
    Project,
    SourceKind,
    Split,
    User,
)
from app.models import Response as Stored
from app.services.jobs import jobs
from app.services.loop import batches, endpoints, evaluations, generations
from app.services.loop.endpoints import Wanted
from app.services.loop.evaluating.wanted import Wanted as EvaluationWanted
from app.services.loop.generating import prompts
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.prompts import Rule
from app.services.loop.generating.wanted import AnswerSource, Sampling
from app.services.training import checkpoints, runs
from app.storage import get_storage
from tests.factory import Factory
from tests.worker.answers.serving import Call, Said, completion, serving
from tests.worker.running import QUICK, Watcher, Workers, folder_of

pytestmark = pytest.mark.timeout(900)
PATIENCE = 400  # seconds that a run may need on a busy machine
TINY = AnswerSource.base("tiny")
one_size = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    quick = {
        "MODELS_DIR": str(tiny_models),
        "HEARTBEAT_SECONDS": "0.2",
        "SWEEP_SECONDS": "0.2",
        "WORKER_LEASE_SECONDS": "2",
        "CANCEL_GRACE_SECONDS": "20",
    }
    for name, value in quick.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def by(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project(slug="tone")


def start(engine: Engine, project: Project, by: User, *, count: int = 6, **more: object) -> GenerationPlan:
    given = prompts.read_given([f"Question number {number} of many?" for number in range(count)])
    ids = prompts.store(engine, project_id=project.id, given=given)
    asked = {
        "sources": [TINY],
        "samples": 2,
        "pairing": Pairing.ROUND_ROBIN,
        "sampling": Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12, seed=3),
    } | more
    with write_session(engine) as session:
        return generations.start(
            session, project=session.merge(project), by=session.merge(by), prompts=ids, rule=Rule(), **asked
        )


def answers(engine: Engine, job_id: int) -> list[GeneratedAnswer]:
    with read_session(engine) as session:
        return list(
            session.scalars(
                select(GeneratedAnswer)
                .where(GeneratedAnswer.job_id == job_id)
                .order_by(GeneratedAnswer.prompt_id, GeneratedAnswer.source, GeneratedAnswer.sample)
            )
        )


def test_a_base_model_answers_and_its_answers_become_pairs(
    engine: Engine, settings: Settings, project: Project, by: User, workers: Workers, watcher: Watcher
) -> None:
    plan = start(engine, project, by)
    workers.start()
    job = watcher.until_over(plan.job_id)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    made = answers(engine, plan.job_id)
    assert len(made) == 12
    assert all(one.finish is not Finish.FAILED and one.seed and one.tokens for one in made)
    with read_session(engine) as session:
        counts = generations.get(session, plan.job_id).counts
        pairs = list(session.scalars(select(Comparison)))
        stored = list(session.scalars(select(Stored)))
    assert counts["answers"] == 12
    assert counts["pairs"] + counts.get("same_pairs", 0) + counts.get("near_pairs", 0) == 6
    assert len(pairs) == counts["pairs"] > 0
    assert {(one.source_kind, one.source_name) for one in stored} == {(SourceKind.MODEL, "tiny")}
    assert {one.response_id for one in made if one.response_id} <= {one.id for one in stored}
    assert (job.step, job.total_steps) == (12, 12)
    assert counts["speed"]["0"]["made"] == 12
    watcher.until_gone(folder_of(settings, job.id))


@one_size
def test_a_worker_that_is_killed_loses_no_answer_that_arrived(
    engine: Engine, settings: Settings, project: Project, by: User, workers: Workers, watcher: Watcher
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=120, seed=3)
    plan = start(engine, project, by, count=100, sampling=sampling)
    first = workers.start("first")
    watcher.until("some answers arrived", lambda: len(answers(engine, plan.job_id)) > 20)
    os.kill(first.pid, signal.SIGKILL)
    arrived = {(one.prompt_id, one.sample): (one.id, one.text) for one in answers(engine, plan.job_id)}
    assert 20 < len(arrived) < 200
    folder = folder_of(settings, plan.job_id)
    workers.start("second")
    watcher.until("a second attempt began", lambda: len(watcher.states(plan.job_id)) >= 4)
    job = watcher.until_over(plan.job_id)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    made = {(one.prompt_id, one.sample): (one.id, one.text) for one in answers(engine, plan.job_id)}
    assert len(made) == 200
    assert {place: made[place] for place in arrived} == arrived
    watcher.until_gone(folder)
    told = [event.data for event in watcher.events(plan.job_id, "log") if event.data.get("made") is not None]
    assert told[-1]["made"] <= 200 - len(arrived)


@one_size
def test_a_lost_folder_costs_no_prompt_that_was_answered(
    engine: Engine, settings: Settings, project: Project, by: User, workers: Workers, watcher: Watcher
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=120, seed=3)
    plan = start(engine, project, by, count=200, samples=1, pairing=Pairing.NONE, sampling=sampling)
    first = workers.start("first")
    watcher.until("some answers arrived", lambda: len(answers(engine, plan.job_id)) > 20)
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, plan.job_id), by=session.merge(by))
    assert watcher.until_over(plan.job_id).state is JobState.CANCELLED
    (kept,) = [event for event in watcher.events(plan.job_id, "state") if event.data.get("kept")]
    arrived = answers(engine, plan.job_id)
    assert f"{len(arrived)} answers" in kept.data["kept"]
    first.terminate()
    first.wait(30)
    folder = folder_of(settings, plan.job_id)
    folder.rename(folder.with_name("lost"))
    with write_session(engine) as session:
        jobs.retry(session, job=jobs.get(session, plan.job_id), by=session.merge(by))
    workers.start("elsewhere")
    watcher.until("it asks again", lambda: (folder / "source-0" / "lines.json").exists())
    asked = json.loads((folder / "source-0" / "lines.json").read_text())
    assert set(asked).isdisjoint({one.prompt_id for one in arrived})
    assert watcher.until_over(plan.job_id).state is JobState.SUCCEEDED
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(GeneratedAnswer)) == 200
        assert session.scalar(select(func.count()).select_from(Comparison)) == 0


@one_size
def test_a_model_that_is_gone_fails_the_job_in_words(
    engine: Engine, project: Project, by: User, workers: Workers, watcher: Watcher
) -> None:
    plan = start(engine, project, by, sources=[AnswerSource.base("gone")])
    workers.start()
    job = watcher.until_over(plan.job_id)
    assert (job.state, job.error_code) == (JobState.FAILED, "not_found")
    assert "gone" in job.error


@one_size
def test_an_endpoint_is_asked_nothing_twice_when_its_worker_is_killed(
    engine: Engine,
    project: Project,
    by: User,
    workers: Workers,
    watcher: Watcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(number: int, call: Call) -> Said:
        return Said(body=completion(f"{call.body['seed']} times yes."), hang=0.1)

    with serving(answer) as server:
        monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", server.host)
        monkeypatch.setenv("PREFLOOP_ENDPOINT_KEY_TEST", "sesame")
        get_settings.cache_clear()
        wanted = Wanted("far", server.url, "m", key_variable="PREFLOOP_ENDPOINT_KEY_TEST", at_once=2)
        with write_session(engine) as session:
            endpoints.add(session, wanted=wanted, by=None, settings=get_settings())
        plan = start(engine, project, by, count=40, sources=[AnswerSource.endpoint("far")])
        first = workers.start("first")
        watcher.until("some answers arrived", lambda: len(answers(engine, plan.job_id)) > 10)
        os.kill(first.pid, signal.SIGKILL)
        workers.start("second")
        job = watcher.until_over(plan.job_id)
        asked = server.asked()
        keys = {call.headers["authorization"] for call in server.calls}
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    made = answers(engine, plan.job_id)
    assert (len(made), {one.finish for one in made}) == (80, {Finish.STOP})
    assert len(set(asked)) == 80
    assert len(asked) <= 80 + 2, "at most the calls in flight are asked again"
    assert keys == {"Bearer sesame"}
    with read_session(engine) as session:
        counts = generations.get(session, plan.job_id).counts
    assert counts["by_source"]["0"] == {"answers": 80, "failed": 0, "tokens": 240, "prompt_tokens": 560}


@one_size
def test_a_checkpoint_and_its_base_answer_for_an_evaluation_which_then_begins_to_ask(
    engine: Engine, settings: Settings, factory: Factory, by: User, workers: Workers, watcher: Watcher
) -> None:
    project = factory.judged(8, eval_percent=50)
    run = runs.train_on_current(
        engine, project=project, by_id=by.id, base_model="tiny", storage=get_storage(settings),
        config={**QUICK, "max_steps": 1, "batch_size": 2, "learning_rate": 0.05},
    )  # fmt: skip
    workers.start()
    assert watcher.until_over(run.job_id, PATIENCE).state is JobState.SUCCEEDED, workers.logs()
    given = prompts.read_given([f"What of the {number}th thing that nobody has seen?" for number in range(12)])
    prompts.store(engine, project_id=project.id, given=given)
    with read_session(engine) as session:
        (checkpoint,) = checkpoints.of_run(session, run=run)
    sampling = Sampling(temperature=1.0, max_new_tokens=8).stored()
    evaluation = batches.start(
        engine, settings, checkpoint_id=checkpoint.id, by_id=by.id, wanted=EvaluationWanted(sampling=sampling)
    )
    job = watcher.until_over(evaluation.job_id or 0, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    made = answers(engine, job.id)
    assert {one.source for one in made} == {0, 1}
    assert {one.finish for one in made} <= {Finish.STOP, Finish.LENGTH}
    seeds = {one.prompt_id: one.seed for one in made if one.source == 0}
    assert {one.prompt_id: one.seed for one in made if one.source == 1} == seeds
    with read_session(engine) as session:
        assert evaluations.get(session, evaluation.id).state is EvaluationState.ASKING
        assert session.scalar(select(func.count()).where(Comparison.evaluation_id == evaluation.id))


@one_size
def test_the_newest_checkpoint_says_which_pairs_the_margin_arm_asks(
    engine: Engine, settings: Settings, factory: Factory, by: User, workers: Workers, watcher: Watcher
) -> None:
    project = factory.judged(8, eval_percent=0)
    run = runs.train_on_current(
        engine, project=project, by_id=by.id, base_model="tiny", storage=get_storage(settings),
        config={**QUICK, "max_steps": 1, "batch_size": 2, "learning_rate": 0.05},
    )  # fmt: skip
    first = workers.start("first")
    assert watcher.until_over(run.job_id, PATIENCE).state is JobState.SUCCEEDED, workers.logs()
    arms = Arms.parse("random=0.2,margin=0.8")
    plan = start(engine, project, by, count=8, samples=3, arms=arms)
    watcher.until("it scores", lambda: watcher.job(plan.job_id).phase == "scoring")
    os.kill(first.pid, signal.SIGKILL)
    workers.start("second")
    job = watcher.until_over(plan.job_id, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{workers.logs()}"
    of = {one.prompt_id: arms.of_prompt(one.prompt_id, Split.TRAIN, seed=3) for one in answers(engine, job.id)}
    assert set(of.values()) == {Arm.RANDOM, Arm.MARGIN}
    rewards = {(one.prompt_id, one.text): one.reward for one in answers(engine, job.id)}
    assert {of[prompt] for (prompt, _), reward in rewards.items() if reward is not None} == {Arm.MARGIN}
    assert {of[prompt] for (prompt, _), reward in rewards.items() if reward is None} == {Arm.RANDOM}
    assert any(reward != 0 for reward in rewards.values() if reward is not None)
    one, other = aliased(Stored), aliased(Stored)
    with read_session(engine) as session:
        counts = generations.get(session, plan.job_id).counts
        asked = session.execute(
            select(Comparison.arm, Comparison.prompt_id, one.text, other.text)
            .join(one, one.id == Comparison.first_response_id)
            .join(other, other.id == Comparison.second_response_id)
            .where(Comparison.arm.is_not(None))
        ).tuples().all()  # fmt: skip
    margins = sorted(
        abs((rewards[prompt, text] or 0) - (rewards[prompt, reply] or 0))
        for arm, prompt, text, reply in asked
        if arm is Arm.MARGIN
    )
    assert len(margins) == counts["arm_margin"] > 0
    every = sorted(
        abs((rewards[prompt, text] or 0) - (rewards[prompt, reply] or 0))
        for prompt in of if of[prompt] is Arm.MARGIN
        for (text, reply) in combinations(sorted(text for number, text in rewards if number == prompt), 2)
    )  # fmt: skip
    assert margins == every[: len(margins)]
