"""Pairs that are new to a checkpoint: neither in its run's snapshot nor in those of the checkpoints that it comes from."""

import pytest
from sqlalchemy import Engine, update

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound, SnapshotEmpty
from app.models import Snapshot
from app.services.datasets import ancestors, snapshots
from app.services.training import runs
from app.storage import Storage
from tests.factory import Factory
from tests.services.datasets.frozen import freeze, judge_all, lines, preview
from tests.services.training.trained import trained, trained_from


def train_ids(storage: Storage, snapshot: Snapshot) -> list[int]:
    with_lines = [one for one in snapshot.files if one.name == "train.jsonl"]
    return [line["comparison_id"] for line in lines(storage, Snapshot(files=tuple(with_lines)))]


def test_each_run_of_a_chain_gets_what_none_before_it_saw(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 6)
    judge_all(factory, project, "left", "right", user=maker)
    first, checkpoint = trained(engine, settings, project, maker)
    judge_all(factory, project, "left", user=maker)
    second, later = trained_from(engine, settings, project, maker, checkpoint)
    judge_all(factory, project, "left", "tie", user=maker)
    third, last = trained_from(engine, settings, project, maker, later)
    with read_session(engine) as session:
        frozen = [runs.get(session, run.job_id).snapshot for run in (first, second, third)]
        told = [ancestors.of_checkpoint(session, number) for number in (last.id, checkpoint.id)]
    assert [train_ids(storage, one) for one in frozen] == [[1, 2], [3], [4]]
    assert frozen[2].rule["new_to_checkpoint"] == later.id
    assert frozen[2].counts.left_out == {"trained_before": 3, "tie": 1, "not_judged": 1}
    assert [[one.job_id for one in chain] for chain in told] == [
        [third.job_id, second.job_id, first.job_id],
        [first.job_id],
    ]
    assert "new_to_checkpoint" not in frozen[0].rule, "a rule of before is as it was"


def test_the_eval_split_stays_whole(engine: Engine, settings: Settings, factory: Factory) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=50)
    factory.comparisons(project, 30)
    judge_all(factory, project, *["left"] * 20, user=maker)
    _, checkpoint = trained(engine, settings, project, maker)
    judge_all(factory, project, *["left"] * 10, user=maker)
    whole, new = preview(factory, project).counts, preview(factory, project, new_to_checkpoint=checkpoint.id).counts
    assert 0 < new.train < whole.train and new.eval == whole.eval > 0
    assert new.left_out["trained_before"] == whole.train - new.train


def test_nothing_new_is_said_before_anything_is_queued(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 2)
    judge_all(factory, project, "left", user=maker)
    _, checkpoint = trained(engine, settings, project, maker)
    with pytest.raises(SnapshotEmpty, match="nothing new to train on: 1 that the checkpoint to start from was trained"):
        trained_from(engine, settings, project, maker, checkpoint)
    with read_session(engine) as session:
        assert len(runs.listing(session, project=project).items) == 1


def test_what_cannot_be_told_is_refused(engine: Engine, settings: Settings, factory: Factory, storage: Storage) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 2)
    judge_all(factory, project, "left", user=maker)
    run, checkpoint = trained(engine, settings, project, maker)
    with pytest.raises(NotFound, match="no checkpoint 999"):
        freeze(factory, project, storage, new_to_checkpoint=999)
    with pytest.raises(Invalid):
        freeze(factory, project, storage, new_to_checkpoint=-1)
    with write_session(engine) as session:
        session.execute(update(Snapshot).where(Snapshot.id == run.snapshot_id).values(indexed=False))
    with pytest.raises(Conflict, match="still to be looked through"):
        freeze(factory, project, storage, new_to_checkpoint=checkpoint.id)


def test_a_pair_of_another_project_is_new(engine: Engine, settings: Settings, factory: Factory) -> None:
    maker = factory.engineer()
    mine, other = (factory.project(by=maker, eval_percent=0) for _ in range(2))
    for project in (mine, other):
        factory.comparisons(project, 2)
        judge_all(factory, project, "left", user=maker)
    _, checkpoint = trained(engine, settings, other, maker)
    run, _ = trained_from(engine, settings, mine, maker, checkpoint)
    with read_session(engine) as session:
        assert snapshots.get(session, run.snapshot_id).counts.train == 1
