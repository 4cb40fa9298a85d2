"""Starting, stopping and finding trials, and what one costs."""

import pytest
from sqlalchemy import select

from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.models import ArmTrial, JobState, Snapshot, TrialState
from app.services.loop.generating import margins
from app.services.loop.generating.arms import Arms
from app.services.loop.trials import trials
from app.services.loop.trials.plan import Plan
from app.services.training import checkpoints, runs
from tests.services.loop.trials.tried import Tried, helped
from tests.services.training.trained import trained, trained_from

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


@pytest.mark.parametrize("new_pairs_only", [True, False])
def test_runs_start_from_the_checkpoint_from_which_the_run_started(tried: Tried, new_pairs_only: bool) -> None:
    """It wasn't trained on any of the run's pairs, whatever the rule of the run's snapshot says."""
    _, start = trained(tried.engine, tried.settings, tried.factory.judged(8), tried.engineer)
    made, _ = trained_from(tried.engine, tried.settings, tried.project, tried.engineer, start)
    if new_pairs_only:  # all pairs are new to it, so the snapshot is the one that was there, with its rule
        with write_session(tried.engine) as session:
            snapshot = session.get_one(Snapshot, made.snapshot_id)
            snapshot.rule = snapshot.rule | {"new_to_checkpoint": start.id}
    with read_session(tried.engine) as session:
        tried.run = runs.get(session, made.job_id)
        possible = trials.possible_runs(session, project=session.merge(tried.project, load=False))
        assert (made.job_id in {run.job_id for run in possible}) == new_pairs_only
    row = tried.advance(tried.begin())
    with read_session(tried.engine) as session:
        of_trial = [runs.get(session, run.job_id) for run, _ in tried.made(row)]
    assert len(of_trial) == 6 and {run.parent_id for run in of_trial} == {start.id}
    assert {run.snapshot.rule.get("new_to_checkpoint") for run in of_trial} == {start.id if new_pairs_only else None}


def test_a_run_whose_start_knows_its_pairs_is_refused_before_anything_is_queued(tried: Tried) -> None:
    with read_session(tried.engine) as session:
        (start,) = checkpoints.of_run(session, run=runs.get(session, tried.run.job_id))
    made, _ = trained_from(tried.engine, tried.settings, tried.project, tried.engineer, start, new_pairs_only=False)
    with read_session(tried.engine) as session:
        tried.run = runs.get(session, made.job_id)
        project = session.merge(tried.project, load=False)
        assert made.job_id not in {run.job_id for run in trials.possible_runs(session, project=project)}
        with pytest.raises(
            Conflict, match="Choose a run that started from its base model, or from a checkpoint on new"
        ):
            trials.cost(session, run=tried.run, plan=FIVE)
    with pytest.raises(Conflict, match=f"checkpoint {start.id}, which had been trained on pairs of the run's snapshot"):
        tried.begin()
    with read_session(tried.engine) as session:
        assert session.scalars(select(ArmTrial)).all() == []


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
