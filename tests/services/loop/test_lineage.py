"""From a pair to everything that used it, and back."""

from sqlalchemy import Engine, delete, select, update

from app.config import Settings
from app.db import read_session, write_session
from app.models import Comparison, Container, Exclusion, Extract, ExtractForm, Snapshot, SnapshotBlock, Split
from app.services.collecting import exclusions
from app.services.datasets import members
from app.services.datasets.extracts import extracts
from app.services.loop import lineage
from app.services.loop.lineage import Kind, Lineage
from app.storage import Storage
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude, lift
from tests.services.loop.removal import test_imports
from tests.services.training.trained import trained, trained_from


def told(found_lineage: Lineage) -> list[tuple[str, int, int]]:
    return [(node.kind.value, node.id, node.excluded) for node in found_lineage.nodes]


def of_pair(engine: Engine, number: int) -> Lineage:
    with read_session(engine) as session:
        return lineage.of_pair(session, comparison=session.get_one(Comparison, number))


def test_a_pair_leads_to_what_used_it_and_back(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 3)
    for _ in range(2):
        assert factory.judge(project, maker, "left")
    run, checkpoint = trained(engine, settings, project, maker)
    with write_session(engine) as session:
        extracts.create(
            session,
            project=session.merge(project),
            by=session.merge(maker),
            form=ExtractForm.TRL,
            container=Container.JSONL,
            snapshot=session.get_one(Snapshot, run.snapshot_id),
            split=Split.TRAIN,
        )
    assert told(of_pair(engine, 1)) == [
        ("pair", 1, 0),
        ("snapshot", 1, 0),
        ("run", run.job_id, 0),
        ("extract", 1, 0),
        ("checkpoint", checkpoint.id, 0),
    ]
    assert told(of_pair(engine, 3)) == [("pair", 3, 0)]
    with read_session(engine) as session:
        back = lineage.of_checkpoint(session, checkpoint_id=checkpoint.id)
        assert session.scalars(select(Extract.id)).all() == [1]
    assert [node.kind for node in back.nodes] == [Kind.SNAPSHOT, Kind.RUN, Kind.CHECKPOINT]
    assert [len(column) for column in back.columns] == [1, 1, 1]


def test_an_exclusion_marks_all_that_depends_on_it(engine: Engine, settings: Settings, factory: Factory) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 4)
    for _ in range(4):
        assert factory.judge(project, maker, "left")
    run, checkpoint = trained(engine, settings, project, maker)
    rows = [exclude(engine, project, kind, subject, maker) for kind, subject in (("pair", 1), ("judgment", 2))]
    for row in rows:
        test_imports.imports.settle(engine, exclusion_id=row.id)
    with read_session(engine) as session:
        marked = [
            lineage.of_snapshot(session, snapshot_id=1).excluded,
            lineage.of_run(session, job_id=run.job_id).excluded,
            lineage.of_checkpoint(session, checkpoint_id=checkpoint.id).excluded,
        ]
    assert marked == [2, 2, 2]
    lift(engine, project, rows[0], maker)
    assert [excluded for _, _, excluded in told(of_pair(engine, 1))] == [0, 1, 1, 1]


def test_votes_of_a_person_and_pairs_of_an_import_are_marked(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    row = test_imports.brought(engine, settings, project, maker, test_imports.waiting(3))
    for _ in range(3):
        assert factory.judge(project, maker, "left")
    factory.snapshot(project)
    made = exclude(engine, project, "person", maker.id, maker)
    test_imports.imports.settle(engine, exclusion_id=made.id)
    with read_session(engine) as session:
        assert lineage.of_snapshot(session, snapshot_id=1).excluded == 3
    lift(engine, project, made, maker)
    test_imports.undo(engine, row, maker)
    with read_session(engine) as session:
        assert lineage.of_snapshot(session, snapshot_id=1).excluded == 3
        assert exclusions.in_force(session, project_id=project.id).imports == {row.id}
        assert all(one.settled for one in session.scalars(select(Exclusion)))


def test_snapshots_of_before_are_looked_through(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    factory.snapshot(factory.judged(6, eval_percent=30))
    with read_session(engine) as session:
        before = members.load(session, snapshot_ids=[1])
    with write_session(engine) as session:
        session.execute(delete(SnapshotBlock))
        session.execute(update(Snapshot).values(indexed=False))
    assert of_pair(engine, 1).unread == 1
    assert members.index_older(engine, storage) == 1
    assert members.index_older(engine, storage) == 0
    with read_session(engine) as session:
        assert members.load(session, snapshot_ids=[1]) == before
    assert of_pair(engine, 1).unread == 0


def test_an_exclusion_marks_what_started_from_a_marked_checkpoint(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    maker = factory.engineer()
    project = factory.project(by=maker, eval_percent=0)
    factory.comparisons(project, 4)
    assert factory.judge(project, maker, "left") and factory.judge(project, maker, "left")
    first, checkpoint = trained(engine, settings, project, maker)
    assert factory.judge(project, maker, "left")
    second, child = trained_from(engine, settings, project, maker, checkpoint)
    whole, beside = trained_from(engine, settings, project, maker, checkpoint, new_pairs_only=False)
    assert told(of_pair(engine, 1)) == [
        ("pair", 1, 0),
        ("snapshot", 1, 0),
        ("snapshot", 3, 0),
        *(("run", run.job_id, 0) for run in (first, second, whole)),
        *(("checkpoint", one.id, 0) for one in (checkpoint, child, beside)),
    ]
    for number in (1, 3):
        row = exclude(engine, project, "pair", number, maker)
        test_imports.imports.settle(engine, exclusion_id=row.id)
    with read_session(engine) as session:
        of_child = lineage.of_checkpoint(session, checkpoint_id=child.id)
        of_beside = lineage.of_run(session, job_id=whole.job_id)
        of_first = lineage.of_run(session, job_id=first.job_id)
    assert (of_first.excluded, of_child.excluded, of_beside.excluded) == (1, 2, 2), "no pair is counted twice"
    assert told(of_child) == [
        ("snapshot", 1, 1),
        ("snapshot", 2, 1),
        ("run", first.job_id, 1),
        ("run", second.job_id, 2),
        ("checkpoint", checkpoint.id, 1),
        ("checkpoint", child.id, 2),
    ]
    assert [node.sources for node in of_child.nodes if node.id == second.job_id and node.kind is Kind.RUN] == [
        ((Kind.SNAPSHOT, 2), (Kind.CHECKPOINT, checkpoint.id))
    ]
    assert ("run", second.job_id, 2) in told(of_first), "what came of it goes on to its children"
