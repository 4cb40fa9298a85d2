"""A round of the loop: answers, judgments, a snapshot, a run and its verdict, one after the other, by one wish."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import NEVER_AGAIN, Base, now, string_enum
from app.models.project import Project
from app.models.user import User


class RoundState(StrEnum):
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"
    FINISHED = "finished"


class RoundStep(StrEnum):
    """What a round does or waits for, in order."""

    ANSWERS = "answers"
    JUDGMENTS = "judgments"
    SNAPSHOT = "snapshot"
    TRAINING = "training"
    EVALUATION = "evaluation"
    VERDICT = "verdict"


ROUND_TRANSITIONS: dict[RoundState, frozenset[RoundState]] = {
    RoundState.RUNNING: frozenset({RoundState.FAILED, RoundState.STOPPED, RoundState.FINISHED}),
    RoundState.FAILED: frozenset({RoundState.RUNNING, RoundState.STOPPED}),
    RoundState.STOPPED: frozenset(),
    RoundState.FINISHED: frozenset(),
}


class Round(Base):
    """One round. Only services.loop.rounding.rounds changes `state` and `step`, by compare-and-set; no worker is held while it waits.

    `plan` is what was wished for, as services.loop.rounding.plan wrote it. `judged_before` counts the project's judgments
    when people began to judge. `problem` says why it failed, and what to do.
    """

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("project_id", "number"),
        # One at a time in a project.
        Index(
            "uq_rounds_active",
            "project_id",
            unique=True,
            sqlite_where=text("state IN ('running', 'failed')"),
            postgresql_where=text("state IN ('running', 'failed')"),
        ),
        CheckConstraint(
            "(state IN ('stopped', 'finished') AND ended_at IS NOT NULL)"
            " OR (state IN ('running', 'failed') AND ended_at IS NULL)",
            name="ended",
        ),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    state: Mapped[RoundState] = mapped_column(string_enum(RoundState, "state"), default=RoundState.RUNNING)
    step: Mapped[RoundStep] = mapped_column(string_enum(RoundStep, "step"), default=RoundStep.ANSWERS)
    plan: Mapped[dict[str, Any]]
    generation_job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    judged_before: Mapped[int] = mapped_column(default=0)
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshots.id"))
    training_job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"))
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"))
    problem: Mapped[str] = mapped_column(String(1000), default="")
    created_by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    changed_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]

    project: Mapped[Project] = relationship(lazy="raise")
    created_by: Mapped[User] = relationship(lazy="raise")
