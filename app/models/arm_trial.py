"""Trials of arms: runs with and without an arm's pairs, to see what its judgments bought."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, JsonOrNull, now, string_enum
from app.models.comparison import Arm
from app.models.project import Project
from app.models.user import User


class TrialState(StrEnum):
    """`preparing`: its snapshots are frozen and its runs queued; `training`: they train, or one of them failed and waits to be
    tried again."""

    PREPARING = "preparing"
    TRAINING = "training"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class ArmTrial(Base):
    """One trial. Only services.loop.trials changes `state`, by compare-and-set; no worker is held while it waits for its runs.

    `of_job_id` is the run whose snapshot and settings are used. `plan` is {arms, seeds}. `result` is what services.loop.trials.figures
    wrote. `problem` says why it failed, and what to do.
    """

    __tablename__ = "arm_trials"
    __table_args__ = (
        UniqueConstraint("project_id", "number"),
        # One at a time in a project.
        Index(
            "uq_arm_trials_active",
            "project_id",
            unique=True,
            sqlite_where=text("state IN ('preparing', 'training')"),
            postgresql_where=text("state IN ('preparing', 'training')"),
        ),
        CheckConstraint("(state IN ('preparing', 'training')) = (ended_at IS NULL)", name="ended"),
        CheckConstraint("(state = 'finished') = (result IS NOT NULL)", name="result"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    of_job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"))
    state: Mapped[TrialState] = mapped_column(string_enum(TrialState, "state"), default=TrialState.PREPARING)
    plan: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
    problem: Mapped[str] = mapped_column(String(1000), default="")
    created_by_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]

    project: Mapped[Project] = relationship(lazy="raise")
    created_by: Mapped[User] = relationship(lazy="raise")


class ArmTrialRun(Base):
    """A run of a trial: of one seed, without so many pairs of one arm and their judgments. That without random pairs is what the
    others of its seed are compared with."""

    __tablename__ = "arm_trial_runs"
    __table_args__ = (UniqueConstraint("job_id"),)

    trial_id: Mapped[int] = mapped_column(ForeignKey("arm_trials.id"), primary_key=True, autoincrement=False)
    seed: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    left_out: Mapped[Arm] = mapped_column(string_enum(Arm, "left_out"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"))
    pairs: Mapped[int]
    judgments: Mapped[int]
