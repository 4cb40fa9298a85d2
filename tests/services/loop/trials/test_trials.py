"""Starting, stopping and finding trials, and what one costs."""

import pytest

from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.models import ArmTrial, Continuation, JobState, TrialState
from app.services.loop.generating import margins
from app.services.loop.generating.arms import Arms
from app.services.loop.trials import trials
from app.services.loop.trials.plan import Plan
from app.services.training import checkpoints, runs
from tests.services.loop.trials.tried import Tried, helped
from tests.services.training.trained import trained

FIVE = Plan.of(["margin"], 5)


def test_the_cost_counts_every_run(tried: Tried) -> None:
    with read_session(tried.engine) as session:
        told = trials.cost(session, run=runs.get(session, tried.run.job_id), plan=FIVE)
    assert (told.runs, told.pairs, told.measured) == (10, 12, 1)
    assert "10 training runs on 12 pairs each" in told.sentence


def test_one_trial_at_a_time_and_the_same_wish_finds_it(tried: Tried) -> None:
    row = tried.begin()
    assert tried.begin().id == row.id
    with pytest.raises(Conflict, match="Trial 1 of this project is under way"):
        tried.begin(FIVE)


def test_a_run_of_another_project_is_none(tried: Tried) -> None:
    other = tried.factory.project()
    with write_session(tried.engine) as session, pytest.raises(NotFound):
        trials.begin(
            session,
            project=session.merge(other),
            run=runs.get(session, tried.run.job_id),
            plan=FIVE,
            by=session.merge(tried.engineer),
        )


def test_a_run_that_goes_on_from_another_has_learnt_what_would_be_left_out(tried: Tried) -> None:
    _, checkpoint = trained(tried.engine, tried.settings, tried.factory.judged(8), tried.engineer)
    with write_session(tried.engine) as session:
        session.add(Continuation(job_id=tried.run.job_id, checkpoint_id=checkpoint.id))
    with pytest.raises(Conflict, match="may have learnt what would be left out"):
        tried.begin()
    with read_session(tried.engine) as session:
        project = session.merge(tried.project, load=False)
        assert trials.possible_runs(session, project=project) == []
        with pytest.raises(Conflict, match="Choose a run that starts from its base model"):
            trials.cost(session, run=runs.get(session, tried.run.job_id), plan=FIVE)


def test_stop_cancels_what_waits_and_another_may_begin(tried: Tried) -> None:
    row = tried.advance(tried.begin())
    for _ in range(2):
        with write_session(tried.engine) as session:
            stopped = trials.stop(session, row=trials.get(session, row.id), by=session.merge(tried.engineer))
        assert stopped.state is TrialState.STOPPED and stopped.ended_at
    assert {job.state for _, job in tried.made(row)} == {JobState.CANCELLED}
    assert tried.advance(row).state is TrialState.STOPPED
    assert tried.begin(FIVE).number == 2


def test_runs_that_failed_are_tried_again(tried: Tried) -> None:
    row = tried.advance(tried.begin())

    def retry() -> ArmTrial:
        with write_session(tried.engine) as session:
            return trials.retry(session, row=trials.get(session, row.id), by=session.merge(tried.engineer))

    with pytest.raises(Conflict, match="Nothing of trial 1 has failed"):
        retry()
    from tests.pretend_worker import PretendWorker

    worker = PretendWorker(tried.engine, tried.settings)
    worker.claim()
    worker.fail("out_of_memory", "It needed more.")
    assert tried.advance(row).state is TrialState.TRAINING, "it waits"
    assert retry().state is TrialState.TRAINING
    assert {job.state for _, job in tried.made(row)} == {JobState.QUEUED}


def test_its_checkpoints_only_measure(tried: Tried) -> None:
    """No arm goes by their margins, no blind batch starts of itself, and no trial rests on their runs."""
    with write_session(tried.engine) as session:
        session.merge(tried.project).evaluates_runs = True
    row = tried.advance(tried.begin())
    tried.train(row, helped)
    with read_session(tried.engine) as session:
        project = session.merge(tried.project, load=False)
        newest = checkpoints.get(
            session, margins.checkpoint_of(session, project=project, arms=Arms.parse("random=0.5,margin=0.5")) or 0
        )
        assert newest.job_id == tried.run.job_id
        assert [run.job_id for run in trials.possible_runs(session, project=project)] == [tried.run.job_id]
        assert trials.is_part(session, job_id=tried.made(row)[0][0].job_id)
