"""What a training run saved, file by file."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import NEVER_AGAIN, Base, now, string_enum
from app.models.training_run import TrainingRun
from app.storage import StoredFile


class Stage(StrEnum):
    CANDIDATE = "candidate"
    APPROVED = "approved"
    ARCHIVED = "archived"


class Checkpoint(Base):
    """`metrics` is {before: {...}, after: {...}} on the eval split; `provenance` repeats the whole chain as it was."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "name"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"))
    name: Mapped[str] = mapped_column(String(64), default="final")
    stage: Mapped[Stage] = mapped_column(string_enum(Stage, "stage"), default=Stage.CANDIDATE)
    step: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)

    run: Mapped[TrainingRun] = relationship(lazy="raise")
    file_rows: Mapped[list["CheckpointFile"]] = relationship(lazy="raise", order_by="CheckpointFile.name")

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Its files by name."""
        return tuple(StoredFile(row.name, row.key, row.size, row.sha256) for row in self.file_rows)


class CheckpointFile(Base):
    """One file of a checkpoint, in the database. Everything else speaks of a StoredFile."""

    __tablename__ = "checkpoint_files"
    __table_args__ = (UniqueConstraint("checkpoint_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"))
    name: Mapped[str] = mapped_column(String(255))
    key: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
