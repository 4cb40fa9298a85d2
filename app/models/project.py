"""A project: what is compared, by which guidelines and rules."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import NEVER_AGAIN, Base, now


class Project(Base):
    """`eval_percent` of the prompts, picked by content hash, are never trained on. `pairs_version` counts the transactions that
    stored pairs, so that who looked before one can tell that nothing was added since. `open_to_everybody`: each account acts
    in it by the account's own role; else only its members and admins know of it. `evaluates_runs`: a run that succeeds is
    compared blind with its parent by itself. Since `archived_at` it can only be looked at; since `deleting_at` it isn't there
    for anybody, and its rows go step by step."""

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint("judgments_per_comparison BETWEEN 1 AND 25", name="judgments_per_comparison"),
        CheckConstraint("eval_percent BETWEEN 0 AND 50", name="eval_percent"),
        CheckConstraint("lease_seconds BETWEEN 30 AND 86400", name="lease_seconds"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    description: Mapped[str] = mapped_column(Text, default="")
    guideline_version: Mapped[int] = mapped_column(default=0)
    judgments_per_comparison: Mapped[int] = mapped_column(default=1)
    allow_tie: Mapped[bool] = mapped_column(default=True)
    allow_both_bad: Mapped[bool] = mapped_column(default=True)
    allow_skip: Mapped[bool] = mapped_column(default=True)
    lease_seconds: Mapped[int] = mapped_column(default=900)
    daily_goal: Mapped[int] = mapped_column(default=60)
    eval_percent: Mapped[int] = mapped_column(default=10)
    default_base_model: Mapped[str] = mapped_column(String(255), default="")
    evaluates_runs: Mapped[bool] = mapped_column(default=False)
    pairs_version: Mapped[int] = mapped_column(default=0)
    is_demo: Mapped[bool] = mapped_column(default=False)
    open_to_everybody: Mapped[bool] = mapped_column(default=False)
    archived_at: Mapped[datetime | None]
    deleting_at: Mapped[datetime | None]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Guideline(Base):
    """One version of a project's guidelines (Markdown); versions count from 1 and never change."""

    __tablename__ = "guidelines"
    __table_args__ = (UniqueConstraint("project_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    version: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
