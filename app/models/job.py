"""Jobs, whatever their kind, and their events."""

import secrets
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import NEVER_AGAIN, Base, now, string_enum
from app.models.project import Project
from app.models.user import User


class JobKind(StrEnum):
    """What a worker does for a job. Each kind has a table of its own for what only it knows."""

    TRAINING = "training"
    EXPORT = "export"
    GENERATION = "generation"
    LABEL_CHECK = "label_check"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# running → queued: its worker died, and the job resumes elsewhere from its last training state.
# failed, cancelled → queued: somebody pressed Retry.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}
FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def new_uid() -> str:
    """What tells a job from every other, also from one of the same number in another database."""
    return secrets.token_hex(16)


class Job(Base):
    """What a worker does. Only services.jobs changes `state`; `phase` is what its program does meanwhile.

    `step` of `total_steps` and `eta_seconds` are progress, None where the kind can't tell.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("created_by_id", "idempotency_key"),
        Index("ix_jobs_state", "state", "lease_until"),
        CheckConstraint(
            "(state = 'running' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state <> 'running' AND lease_token IS NULL AND lease_until IS NULL)",
            name="lease",
        ),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NOT NULL)"
            " OR (state IN ('queued', 'running') AND finished_at IS NULL)",
            name="finished",
        ),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(32), default=new_uid, server_default="")
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[JobKind] = mapped_column(string_enum(JobKind, "kind"))
    state: Mapped[JobState] = mapped_column(string_enum(JobState, "state"), default=JobState.QUEUED)
    phase: Mapped[str] = mapped_column(String(32), default="")
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    eta_seconds: Mapped[float | None]
    needs_device: Mapped[bool] = mapped_column(default=True, server_default=true())
    error: Mapped[str] = mapped_column(Text, default="")
    error_code: Mapped[str] = mapped_column(String(48), default="")
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str] = mapped_column(String(120), default="")
    output_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # of its program's output, kept as events already
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    project: Mapped[Project] = relationship(lazy="raise")
    created_by: Mapped[User | None] = relationship(lazy="raise")


class EventType(StrEnum):
    """What an event tells; the words are those of the engine's output and of the API."""

    STATE = "state"
    STEP = "step"
    EVAL = "eval"
    SAMPLE = "sample"
    LOG = "log"
    CHECKPOINT = "checkpoint"
    DONE = "done"
    ERROR = "error"


class JobEvent(Base):
    """Append-only. `id` is the SSE event id."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    type: Mapped[EventType] = mapped_column(string_enum(EventType, "type", length=16))
    step: Mapped[int | None]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
