"""Which comparisons a snapshot holds, as bitmaps of some thousand each: a question about one pair costs a row a snapshot."""

from collections.abc import Collection, Iterable, Mapping

import orjson
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from app import writer
from app.bulk import insert_rows
from app.db import read_session, write_session
from app.models import Snapshot, SnapshotBlock
from app.models.lineage import BLOCK
from app.storage import Storage

Blocks = Mapping[int, bytes | bytearray]


def blocks_of(comparison_ids: Iterable[int]) -> dict[int, bytearray]:
    """The bitmaps of some comparisons, by block."""
    blocks: dict[int, bytearray] = {}
    for number in comparison_ids:
        block, place = divmod(number, BLOCK)
        members = blocks.setdefault(block, bytearray(BLOCK // 8))
        members[place // 8] |= 1 << place % 8
    return blocks


def has(blocks: Blocks, comparison_id: int) -> bool:
    """Whether a comparison is in bitmaps."""
    block, place = divmod(comparison_id, BLOCK)
    members = blocks.get(block)
    return members is not None and bool(members[place // 8] >> place % 8 & 1)


def ids_in(block: int, members: bytes) -> list[int]:
    """The comparisons in one bitmap."""
    return [
        block * BLOCK + at * 8 + bit for at, byte in enumerate(members) if byte for bit in range(8) if byte >> bit & 1
    ]


def write(session: Session, *, snapshot_id: int, blocks: Blocks) -> None:
    """Stores what a snapshot holds."""
    session.execute(delete(SnapshotBlock).where(SnapshotBlock.snapshot_id == snapshot_id))
    rows = [(block, bytes(members)) for block, members in sorted(blocks.items())]
    insert_rows(session, SnapshotBlock, ("block", "members"), rows, snapshot_id=snapshot_id)
    session.execute(
        update(Snapshot).where(Snapshot.id == snapshot_id).values(indexed=True),
        execution_options={"synchronize_session": False},
    )


def load(
    session: Session, *, snapshot_ids: Collection[int], among: Collection[int] = ()
) -> dict[int, dict[int, bytes]]:
    """The bitmaps of snapshots by their id and block; of these blocks alone where some are given."""
    rows = select(SnapshotBlock.snapshot_id, SnapshotBlock.block, SnapshotBlock.members).where(
        SnapshotBlock.snapshot_id.in_(snapshot_ids)
    )
    if among:
        rows = rows.where(SnapshotBlock.block.in_(among))
    held: dict[int, dict[int, bytes]] = {}
    for snapshot_id, block, members in session.execute(rows).tuples():
        held.setdefault(snapshot_id, {})[block] = members
    return held


def holding(session: Session, *, project_id: int, comparison_id: int) -> list[int]:
    """The snapshots of a project that hold a comparison, by id."""
    rows = session.execute(
        select(SnapshotBlock.snapshot_id, SnapshotBlock.members)
        .join(Snapshot, Snapshot.id == SnapshotBlock.snapshot_id)
        .where(Snapshot.project_id == project_id, SnapshotBlock.block == comparison_id // BLOCK)
        .order_by(Snapshot.id)
    ).tuples()
    block = comparison_id // BLOCK
    return [snapshot_id for snapshot_id, members in rows if has({block: members}, comparison_id)]


def index_older(engine: Engine, storage: Storage) -> int:
    """Looks through the files of snapshots that were frozen before there was an index; how many these were."""
    with read_session(engine) as session:
        older = session.scalars(select(Snapshot).where(~Snapshot.indexed).order_by(Snapshot.id)).all()
    for snapshot in older:
        ids: list[int] = []
        for file in snapshot.files:
            with storage.open(file.key) as lines:
                for number, line in enumerate(lines):
                    if number % 1000 == 0:
                        writer.give_way()
                    ids.append(int(orjson.loads(line)["comparison_id"]))
        with write_session(engine) as session:
            write(session, snapshot_id=snapshot.id, blocks=blocks_of(ids))
    return len(older)
