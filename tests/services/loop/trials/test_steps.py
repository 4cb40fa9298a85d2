"""A trial from its start to what the arms bought, whatever is killed in between."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import read_session, write_session
from app.models import Arm, ArmTrialRun, Comparison, Job, JobState, Snapshot, Split, TrialState
from app.services.datasets import snapshots
from app.services.loop.trials import steps, trials, words
from app.services.training import runs
from tests.services.loop.trials.tried import Tried, helped


def lines(tried: Tried, snapshot: Snapshot, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tried.storage.read_bytes(snapshots.file(snapshot, name).key).splitlines()]


def test_its_runs_have_equal_size_and_differ_in_the_arms_alone(tried: Tried) -> None:
    row = tried.advance(tried.begin())
    assert row.state is TrialState.TRAINING
    made = tried.made(row)
    assert [(run.seed, run.left_out) for run, _ in made] == [
        (seed, arm) for seed in range(3) for arm in (Arm.RANDOM, Arm.MARGIN)
    ]
    with read_session(tried.engine) as session:
        arms = dict(session.execute(select(Comparison.id, Comparison.arm)).tuples().all())
        every = [runs.get(session, run.job_id) for run, _ in made]
    evaluated = set()
    for (run, _), trained in zip(made, every, strict=True):
        train, judged = lines(tried, trained.snapshot, "train.jsonl"), lines(tried, trained.snapshot, "eval.jsonl")
        kept = Arm.MARGIN if run.left_out is Arm.RANDOM else Arm.RANDOM
        assert [arms[one["comparison_id"]] for one in train] == [kept] * 12
        assert (run.pairs, run.judgments) == (12, 12)
        assert {arms[one["comparison_id"]] for one in judged} == {Arm.RANDOM} and len(judged) == 10
        evaluated.add(snapshots.file(trained.snapshot, "eval.jsonl").sha256)
        assert trained.snapshot.statistics.warnings[0].code == "arm_trial"
        assert trained.snapshot.statistics.arms == {kept.value: 12}
        assert trained.snapshot.counts.of(Split.EVAL) == trained.snapshot.statistics.random_eval == 10
        assert (trained.base_model, trained.config["seed"]) == (
            tried.run.base_model,
            1 + run.seed + tried.run.config["seed"],
        )
        assert trained.config | {"seed": 0} == tried.run.config | {"seed": 0}
    assert len(evaluated) == 1


def test_it_says_what_the_arm_bought_once_all_are_trained(tried: Tried) -> None:
    row = tried.advance(tried.begin())
    assert tried.advance(row).result is None
    tried.train(row, helped)
    row = tried.advance(row)
    assert row.state is TrialState.FINISHED and row.ended_at
    (one,) = row.result["arms"].values()  # type: ignore[index]
    assert one["differs"] and one["accuracy"]["low"] > 0
    bought, advice = words.sentences(row)
    assert bought.startswith("12 judgments of the arm “small margin” bought +")
    assert "larger share of “small margin” may pay" in advice
    assert not steps.advance(tried.engine, tried.storage, row.id)


class Killed(BaseException):
    """The end of the process."""


def test_a_kill_in_the_middle_starts_nothing_twice(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    row, freeze, calls = tried.begin(), steps.parts.freeze, []

    def dies(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return freeze(*given, **more)

    monkeypatch.setattr(steps.parts, "freeze", dies)
    with pytest.raises(Killed):
        steps.advance_all(tried.engine, tried.storage)
    assert len(tried.made(row)) == 2
    assert steps.advance_all(tried.engine, tried.storage) == [row.id]
    assert len(tried.made(row)) == 6
    with read_session(tried.engine) as session:
        assert session.scalar(select(func.count()).select_from(Job).where(Job.state == JobState.QUEUED)) == 6


def test_nothing_is_queued_after_a_stop(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.services.loop.trials import trials

    row, freeze = tried.begin(), steps.parts.freeze

    def stops(*given: Any, **more: Any) -> Any:
        made = freeze(*given, **more)
        with write_session(tried.engine) as session:
            trials.stop(session, row=trials.get(session, row.id), by=session.merge(tried.engineer))
        return made

    monkeypatch.setattr(steps.parts, "freeze", stops)
    assert tried.advance(row).state is TrialState.STOPPED
    assert tried.made(row) == []


def test_whoever_may_not_train_any_more_fails_it_in_words(tried: Tried) -> None:
    row = tried.begin()
    with write_session(tried.engine) as session:
        session.merge(tried.engineer).active = False
    failed = tried.advance(row)
    assert failed.state is TrialState.FAILED
    assert "isn't an engineer of the project any more" in failed.problem


def test_runs_that_left_no_margins_cannot_be_compared(tried: Tried) -> None:
    row = tried.advance(tried.begin())
    from tests.pretend_worker import PretendWorker

    worker = PretendWorker(tried.engine, tried.settings)
    for _ in tried.made(row):
        worker.claim()
        worker.publish()
    failed = tried.advance(row)
    assert failed.state is TrialState.FAILED
    assert "left no margins" in failed.problem
    with read_session(tried.engine) as session:
        assert session.scalar(select(func.count()).select_from(ArmTrialRun)) == 6


def test_what_nobody_foresaw_fails_it_in_words_and_retry_goes_on(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such thing")

    row = tried.begin()
    with monkeypatch.context() as patch:
        patch.setattr(steps.parts, "freeze", broken)
        row = tried.advance(row)
    assert row.state is TrialState.FAILED
    assert "broke: ValueError: no such thing. Press Retry" in row.problem
    with write_session(tried.engine) as session:
        trials.retry(session, row=trials.get(session, row.id), by=session.merge(tried.engineer))
    assert tried.advance(row).state is TrialState.TRAINING
