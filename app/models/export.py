"""A checkpoint in a form that others serve: merged weights or GGUF, made by a job and proven by it."""

from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, FileList, string_enum
from app.models.checkpoint import Checkpoint
from app.models.job import Job
from app.storage import StoredFile


class ExportFormat(StrEnum):
    """What the engine's `export --as` writes."""

    MERGED = "merged"
    GGUF_F16 = "gguf-f16"
    GGUF_Q8_0 = "gguf-q8_0"


class Export(Base):
    """One an export job, made with it; one a checkpoint and format, so that a second wish finds the first one's job.

    `files` and `proof` (the engine's `export.json`) are empty until the job has succeeded.
    """

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("checkpoint_id", "format"),)

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, autoincrement=False)
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"))
    format: Mapped[ExportFormat] = mapped_column(string_enum(ExportFormat, "format"))
    files: Mapped[tuple[StoredFile, ...]] = mapped_column(FileList, default=())
    proof: Mapped[dict[str, Any]] = mapped_column(default=dict)

    job: Mapped[Job] = relationship(lazy="raise")
    checkpoint: Mapped[Checkpoint] = relationship(lazy="raise")
