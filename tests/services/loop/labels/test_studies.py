"""The run again without each one's votes: their training pairs go, the eval pairs stay, and nothing is made twice."""

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid
from app.models import JobState, PersonRun, PersonStudy, TrainingRun
from app.services.loop.labels import studies
from app.services.loop.labels.studies import Wanted
from app.services.training import checkpoints, runs
from tests.factory import Factory
from tests.services.loop.labels.studied import Studied
from tests.services.training.trained import trained, trained_from


@pytest.fixture
def studied(engine: Engine, settings: Settings, factory: Factory) -> Studied:
    return Studied(engine, settings, factory)


def test_a_person_s_training_pairs_go_and_the_eval_pairs_stay(engine: Engine, studied: Studied) -> None:
    study = studied.begin(studied.ben, seeds=2)
    rows = studied.runs_of(study)
    assert [(row.user_id, row.seed) for row in rows] == [
        (None, 42), (studied.ben.id, 42), (None, 43), (studied.ben.id, 43)
    ]  # fmt: skip
    with read_session(engine) as session:
        everybody, without, _, again = (runs.get(session, row.job_id) for row in rows)
    assert everybody.snapshot_id == studied.run.snapshot_id != without.snapshot_id == again.snapshot_id
    assert (everybody.config["seed"], again.config["seed"]) == (42, 43)
    assert without.config == everybody.config and without.config["pair_order"] == "content"
    before, after = (studied.lines(run, "train.jsonl") for run in (everybody, without))
    assert after == [line for line in before if not studied.of_ben(line["comparison_id"])]
    assert rows[1].pairs == len(before) - len(after) > 0
    assert studied.lines(without, "eval.jsonl") == studied.lines(everybody, "eval.jsonl")
    assert any(studied.of_ben(line["comparison_id"]) for line in studied.lines(without, "eval.jsonl"))


def test_the_same_wish_finds_the_study_and_another_takes_the_runs_that_are_there(
    engine: Engine, studied: Studied
) -> None:
    first = studied.begin(studied.ben)
    assert studied.begin(studied.ben).id == first.id
    both = studied.begin(studied.ana, studied.ben)
    shared = {row.job_id for row in studied.runs_of(first)}
    assert shared < {row.job_id for row in studied.runs_of(both)}
    with read_session(engine) as session:
        assert len(session.scalars(select(TrainingRun.job_id)).all()) == 1 + 3
        assert [one.id for one in studies.of_run(session, job_id=studied.run.job_id)] == [both.id, first.id]


def test_what_can_not_be_asked_is_refused_before_anything_is_made(engine: Engine, studied: Studied) -> None:
    with pytest.raises(Invalid, match="Whose votes"):
        studied.begin()
    with pytest.raises(Invalid, match="0 seeds"):
        studied.begin(studied.ben, seeds=0)
    with pytest.raises(Invalid, match="no vote of user"):
        studied.begin(studied.maker)
    study = studied.begin(studied.ben)
    waiting = studied.runs_of(study)[0].job_id
    with write_session(engine) as session, pytest.raises(Conflict, match="is queued"):
        studies.require(session, run=runs.get(session, waiting), wanted=Wanted((studied.ben.id,)))
    with read_session(engine) as session:
        told = studies.progress(session, study_ids=[study.id])[study.id]
        assert {state for _, state in told} == {JobState.QUEUED}
        assert len(session.scalars(select(PersonRun.id)).all()) == 2


def test_a_run_without_an_eval_split_has_nothing_to_compare_on(
    engine: Engine, studied: Studied, settings: Settings, factory: Factory
) -> None:
    with read_session(engine) as session:
        run = runs.get(session, studied.run.job_id)
        assert studies.cost(session, run=run, wanted=Wanted((1, 2), 3)).runs == 9
        assert [one.user_id for one in studies.people(run)] == [studied.ana.id, studied.ben.id]


def test_runs_start_from_the_checkpoint_from_which_the_run_started(
    engine: Engine, studied: Studied, settings: Settings, factory: Factory
) -> None:
    _, start = trained(engine, settings, factory.judged(4), studied.maker)
    studied.run, _ = trained_from(engine, settings, studied.project, studied.maker, start)
    rows = studied.runs_of(studied.begin(studied.ben))
    with read_session(engine) as session:
        everybody, without = (runs.get(session, row.job_id) for row in rows)
    assert everybody.parent_id == without.parent_id == start.id
    assert everybody.snapshot_id == studied.run.snapshot_id != without.snapshot_id


def test_a_run_whose_start_knows_its_pairs_is_refused_before_anything_is_queued(
    engine: Engine, studied: Studied, settings: Settings
) -> None:
    with read_session(engine) as session:
        (start,) = checkpoints.of_run(session, run=runs.get(session, studied.run.job_id))
    studied.run, _ = trained_from(engine, settings, studied.project, studied.maker, start, new_pairs_only=False)
    with pytest.raises(Conflict, match=r"what it learned of a pair can't be left out\. Choose a run that started from"):
        studied.begin(studied.ben)
    with read_session(engine) as session:
        assert session.scalars(select(PersonStudy)).all() == []
        assert len(session.scalars(select(TrainingRun.job_id)).all()) == 2
