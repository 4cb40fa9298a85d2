"""What a run has told, read back for its page: charts as the engine printed them, the end of the log, samples."""

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.events.types import Failed
from app.models import Job
from app.services.jobs import jobs
from app.services.training import history, runs
from tests.factory import Factory
from tests.pretend_worker import PretendWorker, evaluation

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def worker(engine: Engine, settings: Settings, factory: Factory) -> PretendWorker:
    """A worker that has just begun a run with β 0.5."""
    snapshot, engineer = factory.snapshot(factory.judged(8)), factory.engineer()
    with write_session(engine) as session:
        runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={"beta": 0.5},
            by=session.merge(engineer),
        )
    begun = PretendWorker(engine, settings)
    begun.claim()
    return begun


def points_of(worker: PretendWorker) -> list[dict]:
    with read_session(worker.engine) as session:
        return history.chart_points(session, job=jobs.get(session, worker.job_id))


def test_charts_show_what_the_engine_printed_and_nothing_worked_out_from_it(worker: PretendWorker) -> None:
    rewards = {"rewards/chosen": 0.25, "rewards/rejected": -1.0, "rewards/margins": 1.25, "rewards/accuracies": 1.0}
    worker.say(
        ("step", 1, rewards | {"loss": 0.5, "log_ratios/chosen": 0.7, "log_ratios/rejected": -2.0}),
        ("step", 2, rewards),
        ("eval", 2, {"eval_log_ratios/chosen": 0.9, "eval_rewards/margins": 1.0, "eval_loss": 0.25}),
    )
    first, evaluated, second = points_of(worker)
    assert (first["log_ratios/chosen"], first["log_ratios/rejected"]) == (0.7, -2.0)
    assert not [name for name in second if name.startswith("log_ratios/")]
    assert (evaluated["kind"], evaluated["log_ratios/chosen"], evaluated["loss"]) == ("eval", 0.9, 0.25)


def test_there_is_no_accuracy_before_anything_is_learned(worker: PretendWorker) -> None:
    worker.say(("eval", 0, evaluation(0)), ("eval", 10, evaluation(10)))
    before, after = points_of(worker)
    assert "rewards/accuracies" not in before and before["loss"] == pytest.approx(0.693147)
    assert after["rewards/accuracies"] > 0.5


def test_a_step_that_a_resumed_run_took_again_counts_once(worker: PretendWorker) -> None:
    worker.steps(1, 9, 20)
    worker.say(("step", 8, {"loss": 0.125}), ("step", 9, {"loss": 0.0625}))
    points = points_of(worker)
    assert [point["step"] for point in points] == list(range(1, 10))
    assert [point["loss"] for point in points[-2:]] == [0.125, 0.0625]


def test_a_long_run_is_thinned_but_keeps_evaluations_and_its_last_step(
    worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_POINTS", 10)
    worker.steps(1, 50, 50)
    worker.evaluate(25)
    points = points_of(worker)
    assert len(points) <= 12
    assert [point["step"] for point in points if point["kind"] == "eval"] == [25]
    assert points[-1]["step"] == 50


def test_recent_points_are_newest_first(worker: PretendWorker) -> None:
    worker.steps(1, 20, 20)
    worker.evaluate(10)
    worker.evaluate(20)
    with read_session(worker.engine) as session:
        evals, steps = history.recent_points(session, job=jobs.get(session, worker.job_id), steps=3, evals=1)
    assert [point["step"] for point in steps] == [20, 19, 18]
    assert [point["step"] for point in evals] == [20]


def test_the_log_holds_its_newest_lines_oldest_first(worker: PretendWorker) -> None:
    worker.say(*(("log", None, {"message": f"line {number}"}) for number in range(5)), ("step", 1, {"loss": 1.0}))
    with read_session(worker.engine) as session:
        job = jobs.get(session, worker.job_id)
        assert [event.data["message"] for event in history.log_tail(session, job=job, lines=2)] == ["line 3", "line 4"]


def test_the_newest_error_is_the_one_told(worker: PretendWorker) -> None:
    def error(job: Job) -> Failed | None:
        return history.last_error(session, job=job)

    with read_session(worker.engine) as session:
        assert error(jobs.get(session, worker.job_id)) is None
    worker.fail("out_of_memory", "Memory ran out.", kept="Step 3 is kept.", lines=("last words",))
    with read_session(worker.engine) as session:
        told = error(jobs.get(session, worker.job_id))
    assert told is not None
    assert (told.code, told.kept, told.lines) == ("out_of_memory", "Step 3 is kept.", ["last words"])


def test_what_a_cancelled_run_kept_is_told(worker: PretendWorker) -> None:
    worker.end_cancelled("The training state of step 3 is kept.")
    with read_session(worker.engine) as session:
        job = jobs.get(session, worker.job_id)
        assert history.kept_on_cancel(session, job=job) == "The training state of step 3 is kept."


def test_samples_of_a_prompt_stand_together_the_newer_of_a_phase_counts(worker: PretendWorker) -> None:
    worker.sample("before", 0, "Before.")
    worker.sample("after", 5, "Half way.")
    worker.sample("after", 9, "After.")
    worker.say(("sample", 9, {"phase": "after", "decoding": "sampled", "prompt": "Hi", "completion": "Hello"}))
    with read_session(worker.engine) as session:
        first, second = history.samples(session, job=jobs.get(session, worker.job_id))
    assert first.answers == {"before": "Before.", "after": "After."}
    assert (second.prompt, second.answers) == ([{"role": "user", "content": "Hi"}], {"after": "Hello"})
