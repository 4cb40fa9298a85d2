"""A freeze of a large project that goes on in the background, with the run that is queued on it if one is wanted."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import NEVER_AGAIN, Base, JsonOrNull, now, string_enum


class FreezingState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Freezing(Base):
    """`run` is what a run is queued with once the snapshot is there (`base_model`, `config`, `note`, `idempotency_key`), None where only
    a snapshot is wanted. What came of it: `snapshot_id`, and `job_id` of the run."""

    __tablename__ = "freezings"
    __table_args__ = (
        CheckConstraint("state <> 'done' OR snapshot_id IS NOT NULL", name="done"),
        CheckConstraint("(state = 'failed') = (error <> '')", name="failed"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    rule: Mapped[dict[str, Any]]
    run: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
    state: Mapped[FreezingState] = mapped_column(string_enum(FreezingState, "state"), default=FreezingState.RUNNING)
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshots.id"))
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
