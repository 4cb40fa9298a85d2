"""A training run: what a training job trains, on what, and how it went."""

from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base
from app.models.continuation import Continuation
from app.models.job import Job
from app.models.snapshot import Snapshot


class TrainingRun(Base):
    """One a training job, made with it. `metrics` is {before, after, step, done: {metric: value}}, the newest of each."""

    __tablename__ = "training_runs"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, autoincrement=False)
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"), index=True)
    base_model: Mapped[str] = mapped_column(String(255))
    config: Mapped[dict[str, Any]]
    note: Mapped[str] = mapped_column(String(255), default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)

    job: Mapped[Job] = relationship(lazy="raise")
    snapshot: Mapped[Snapshot] = relationship(lazy="raise")
    continuation: Mapped[Continuation | None] = relationship(lazy="raise", viewonly=True)

    @property
    def parent_id(self) -> int | None:
        """The checkpoint that it starts from; None for its base model."""
        return self.continuation.checkpoint_id if self.continuation else None
