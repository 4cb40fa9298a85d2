"""Which pairs a snapshot holds, what of it was excluded later, and runs that were made again without it."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, now

BLOCK = 4096  # comparisons of one row: 512 bytes


class SnapshotBlock(Base):
    """The comparisons of one snapshot whose id divided by BLOCK is `block`, a bit for each. Without a foreign key to them: a
    comparison that a snapshot holds is never removed but with its project."""

    __tablename__ = "snapshot_blocks"
    __table_args__ = ({"sqlite_with_rowid": False},)

    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"), primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    members: Mapped[bytes] = mapped_column(LargeBinary(BLOCK // 8))


class ExclusionMark(Base):
    """That a snapshot holds so many pairs that an exclusion is about."""

    __tablename__ = "exclusion_marks"

    exclusion_id: Mapped[int] = mapped_column(ForeignKey("exclusions.id"), primary_key=True, autoincrement=False)
    snapshot_id: Mapped[int] = mapped_column(
        ForeignKey("snapshots.id"), primary_key=True, autoincrement=False, index=True
    )
    pairs: Mapped[int]


class Retraining(Base):
    """A run that is another run again, without what was excluded since: on a snapshot of its own."""

    __tablename__ = "retrainings"

    job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"), primary_key=True, autoincrement=False)
    of_job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"), index=True)
    pairs_left_out: Mapped[int]
    pairs_decided_anew: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)
