"""A part of a snapshot, frozen as one of its own: lines byte for byte as they were, some of them left out."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine

from app.models import Arm, Snapshot, Split, Warned
from app.services.datasets import files, report, snapshots, without
from app.services.datasets.collected import Collected
from app.services.datasets.rules import Rule
from app.services.datasets.snapshots import Preview
from app.storage import Storage


def freeze(
    engine: Engine,
    *,
    snapshot: Snapshot,
    leaving_out: Collection[int],
    arms: Mapping[int, Arm | None],
    note: Warned,
    storage: Storage,
    by_id: int | None,
) -> Snapshot:
    """The snapshot without these comparisons, or the one that has the same content already. `snapshot` has its project loaded.

    arms: of all its comparisons. note: what is said of the part before everything else.
    """
    collected = Collected()

    def kept() -> Iterator[tuple[Split, int, bytes]]:
        for split, row, line in without.lines_of(storage, snapshot):
            number = int(row["comparison_id"])
            if number not in leaving_out:
                collected.add(without.pair_of(split, row, arms.get(number)))
                yield split, number, line

    with tempfile.TemporaryDirectory(prefix="prefloop-snapshot-") as folder:
        written = files.write_lines(kept(), Path(folder))
        described = _described(snapshot, collected, note)
        return snapshots.store(engine, snapshot.project, described, written, storage=storage, by_id=by_id)


def _described(snapshot: Snapshot, collected: Collected, note: Warned) -> Preview:
    """Counts of what is left. People and agreement are the whole snapshot's."""
    before = snapshot.statistics
    gone = snapshot.counts.pairs - collected.pairs
    counts = replace(
        snapshot.counts,
        pairs=collected.pairs,
        train=collected.pairs - collected.evaluated,
        eval=collected.evaluated,
        left_out=snapshot.counts.left_out | {"trial": gone},
    )
    statistics = replace(
        report.statistics(collected),
        evaluators=before.evaluators,
        agreement=before.agreement,
        left_picked=before.left_picked,
        imported=before.imported,
    )
    warnings = (note, *report.warnings(counts, statistics))
    return Preview(Rule.of(snapshot.rule), counts, replace(statistics, warnings=warnings))
