"""Snapshots: frozen once, never changed."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, type_coerce, update

from app.db import read_session, write_session
from app.errors import NotFound, SnapshotEmpty
from app.models import Arm, AuditEntry, Choice, Comparison, Prompt, Snapshot, Split, Warned
from app.models.base import Json
from app.services.accounts import audit
from app.services.datasets import snapshots
from app.storage import Storage, StoredFile
from tests.factory import Factory
from tests.services.datasets.frozen import freeze, judge_all

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def test_freezing_again_gives_the_same_snapshot_until_something_changes(factory: Factory, storage: Storage) -> None:
    project = factory.judged(6, eval_percent=0)
    first = freeze(factory, project, storage)
    assert freeze(factory, project, storage).id == first.id
    factory.comparison(project)
    assert freeze(factory, project, storage).id == first.id  # it has no judgment yet
    judge_all(factory, project, "left")
    second = freeze(factory, project, storage)
    assert (first.number, second.number) == (1, 2) and second.sha256 != first.sha256
    assert freeze(factory, factory.judged(3, eval_percent=0), storage).number == 1
    with read_session(factory.engine) as session:
        assert [row.number for row in snapshots.listing(session, project=project)] == [2, 1]
        assert session.scalar(select(func.count(AuditEntry.id)).where(AuditEntry.action == "snapshot.freeze")) == 3
        assert snapshots.file(snapshots.get(session, first.id), "train.jsonl") == first.files[1]
        for wrong in (lambda: snapshots.get(session, 99), lambda: snapshots.file(first, "../secret")):
            with pytest.raises(NotFound):
                wrong()


def test_an_old_snapshot_stays_as_it_was(factory: Factory, storage: Storage) -> None:
    project = factory.judged(5, eval_percent=0)
    first = freeze(factory, project, storage)
    before = [storage.read_bytes(file.key) for file in first.files]
    factory.comparison(project)
    judge_all(factory, project, "right")
    freeze(factory, project, storage)
    assert [storage.read_bytes(file.key) for file in first.files] == before


def test_nothing_to_train_on_is_an_error_with_counts_and_advice(factory: Factory, storage: Storage) -> None:
    project = factory.project()
    with pytest.raises(SnapshotEmpty, match=r"no comparisons yet\. Import some"):
        freeze(factory, project, storage)
    factory.comparisons(project, 3)
    judge_all(factory, project, "tie")
    with pytest.raises(SnapshotEmpty, match=r"2 without a judgment, 1 judged a tie\. Collect more") as empty:
        freeze(factory, project, storage)
    assert empty.value.details["left_out"] == {"not_judged": 2, "tie": 1}


def test_a_snapshot_of_the_first_release_is_read_as_it_was_stored(factory: Factory, storage: Storage) -> None:
    """Its files said how many pairs they hold, and its warnings were lists of two."""
    snapshot = freeze(factory, factory.judged(6, eval_percent=0), storage)
    with write_session(factory.engine) as session:
        column = Snapshot.__table__.c
        raw = select(*(type_coerce(column[name], Json) for name in ("files", "statistics")))
        files, statistics = session.execute(raw).one()
        assert statistics["warnings"][0][0] == "too_few_pairs"  # stored as ever
        stored = {
            "files": [file | {"pairs": 6} for file in files],
            "statistics": statistics | {"gone_since": {"then": 1}, "warnings": [["too_few_pairs", "Only 6 pairs."]]},
        }
        session.execute(
            update(Snapshot.__table__).values({name: type_coerce(value, Json) for name, value in stored.items()})
        )
    with read_session(factory.engine) as session:
        again = snapshots.get(session, snapshot.id)
    assert (again.files, again.counts) == (snapshot.files, snapshot.counts)
    assert again.statistics == replace(snapshot.statistics, warnings=(Warned("too_few_pairs", "Only 6 pairs."),))


def test_clicks_at_once_give_one_snapshot_and_later_ones_no_gap(factory: Factory, storage: Storage) -> None:
    project = factory.judged(6, eval_percent=0)
    for number in (1, 2):
        with ThreadPoolExecutor(6) as people:
            frozen = list(people.map(lambda _: freeze(factory, project, storage), range(6)))
        assert {(one.id, one.number) for one in frozen} == {(frozen[0].id, number)}
        factory.comparison(project)
        judge_all(factory, project, "left")
    with read_session(factory.engine) as session:
        assert [row.number for row in snapshots.listing(session, project=project)] == [2, 1]


def test_others_write_while_a_dataset_is_uploaded(factory: Factory, storage: Storage) -> None:
    """On SQLite there is one writer: were it held, this judgment would wait for itself."""
    project = factory.judged(6, eval_percent=0)
    factory.comparison(project)

    class Judging(Storage):
        def put_file(self, key: str, path: Path, *, name: str = "") -> StoredFile:
            if key.endswith("train.jsonl"):
                judge_all(factory, project, "left")
            return super().put_file(key, path, name=name)

    first = freeze(factory, project, Judging(storage.url))
    assert first.counts.judgments == 6
    assert freeze(factory, project, storage).counts.judgments == 7


def test_freezing_that_breaks_off_leaves_nothing_that_the_next_try_trips_over(
    factory: Factory, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = factory.judged(6, eval_percent=0)
    with monkeypatch.context() as patched:
        patched.setattr(audit, "record", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            freeze(factory, project, storage)
    with read_session(factory.engine) as session:
        assert snapshots.listing(session, project=project) == []
    assert freeze(factory, project, storage).number == 1


def test_what_each_arm_gave_is_counted(factory: Factory) -> None:
    project = factory.judged(12, eval_percent=40)
    with write_session(factory.engine) as session:
        for number, pair in enumerate(session.scalars(select(Comparison).order_by(Comparison.id))):
            pair.arm = (Arm.RANDOM, Arm.MARGIN, None)[number % 3]
    snapshot = factory.snapshot(project)
    with read_session(factory.engine) as session:
        rows = session.execute(select(Comparison.arm, Prompt.split).join(Prompt, Prompt.id == Comparison.prompt_id))
        said = Counter(rows.tuples())
    told = snapshot.statistics
    assert told.arms == {"margin": said[Arm.MARGIN, Split.TRAIN], "random": said[Arm.RANDOM, Split.TRAIN]}
    assert told.random_eval == said[Arm.RANDOM, Split.EVAL]
