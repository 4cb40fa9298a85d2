"""What of earlier snapshots was excluded since: counted once, when the exclusion is made."""

from collections.abc import Collection, Iterator
from datetime import datetime

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.models import Comparison, Exclusion, ExclusionMark, Judgment, Snapshot
from app.services.collecting.exclusions import IN_FORCE
from app.services.datasets import members
from app.services.datasets.members import Blocks

IDS_AT_ONCE = 5_000


def write(engine: Engine, *, exclusion_id: int) -> None:
    """Marks every snapshot that holds what an exclusion is about. Again it counts anew."""
    with read_session(engine) as session:
        row = session.get(Exclusion, exclusion_id)
        if row is None or row.lifted_at is not None:
            return
        counts = _counts(session, row)
    with write_session(engine) as session:
        session.execute(delete(ExclusionMark).where(ExclusionMark.exclusion_id == exclusion_id))
        session.add_all(
            ExclusionMark(exclusion_id=exclusion_id, snapshot_id=snapshot_id, pairs=pairs)
            for snapshot_id, pairs in counts.items()
            if pairs
        )


def write_since(engine: Engine, *, project_id: int, since: datetime) -> None:
    """The same for exclusions that were made while a snapshot was being frozen."""
    with read_session(engine) as session:
        made = select(Exclusion.id).where(Exclusion.project_id == project_id, IN_FORCE, Exclusion.at >= since)
        ids = session.scalars(made).all()
    for exclusion_id in ids:
        write(engine, exclusion_id=exclusion_id)


def pairs_excluded(session: Session, *, snapshot_ids: list[int]) -> dict[int, int]:
    """How many pairs of each snapshot were excluded later and are so still; those without any are left out."""
    rows = session.execute(
        select(ExclusionMark.snapshot_id, func.sum(ExclusionMark.pairs))
        .join(Exclusion, Exclusion.id == ExclusionMark.exclusion_id)
        .where(ExclusionMark.snapshot_id.in_(snapshot_ids), IN_FORCE)
        .group_by(ExclusionMark.snapshot_id)
    ).tuples()
    return {snapshot_id: int(pairs) for snapshot_id, pairs in rows}


def by_exclusion(session: Session, *, snapshot_ids: Collection[int]) -> dict[int, dict[int, int]]:
    """Of each snapshot: how many of its pairs each exclusion that is in force is about, by the exclusion's id."""
    rows = session.execute(
        select(ExclusionMark.snapshot_id, ExclusionMark.exclusion_id, ExclusionMark.pairs)
        .join(Exclusion, Exclusion.id == ExclusionMark.exclusion_id)
        .where(ExclusionMark.snapshot_id.in_(snapshot_ids), IN_FORCE)
    ).tuples()
    told: dict[int, dict[int, int]] = {}
    for snapshot_id, exclusion_id, pairs in rows:
        told.setdefault(snapshot_id, {})[exclusion_id] = pairs
    return told


def _counts(session: Session, row: Exclusion) -> dict[int, int]:
    snapshots = session.execute(
        select(Snapshot.id, Snapshot.created_at).where(Snapshot.project_id == row.project_id)
    ).tuples()
    frozen = dict(snapshots.all())
    held: dict[int, Blocks] = dict(members.load(session, snapshot_ids=list(frozen)))
    counts = dict.fromkeys(frozen, 0)
    for comparison_id, since in _about(session, row):
        for snapshot_id, created_at in frozen.items():
            if (since is None or since <= created_at) and members.has(held.get(snapshot_id, {}), comparison_id):
                counts[snapshot_id] += 1
    return counts


def _about(session: Session, row: Exclusion) -> Iterator[tuple[int, datetime | None]]:
    """The comparisons that an exclusion is about, and since when what is excluded of them was there."""
    if row.comparison_id is not None:
        yield row.comparison_id, None
        return
    if row.import_id is not None:
        alone = select(Exclusion.comparison_id).where(
            Exclusion.project_id == row.project_id, IN_FORCE, Exclusion.comparison_id.is_not(None)
        )
        already = set(session.scalars(alone))
        ids = session.scalars(
            select(Comparison.id).where(Comparison.import_id == row.import_id).execution_options(yield_per=IDS_AT_ONCE)
        )
        yield from ((number, None) for number in ids if number not in already)
        return
    votes = select(Judgment.comparison_id, func.min(Judgment.submitted_at)).group_by(Judgment.comparison_id)
    if row.judgment_id is not None:
        votes = votes.where(Judgment.id == row.judgment_id)
    else:
        votes = votes.where(Judgment.project_id == row.project_id, Judgment.user_id == row.user_id)
    yield from session.execute(votes).tuples()
