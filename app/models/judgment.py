"""Judgments are append-only: an edit is a new row that supersedes the old."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, now, string_enum
from app.models.comparison import Choice, Comparison, Side
from app.models.user import User


class JudgmentSource(StrEnum):
    WEB = "web"
    API = "api"
    IMPORT = "import"


class Judgment(Base):
    """What one person decided about one comparison; a person has at most one that isn't superseded.

    `slot_id` is the slot that it filled: a skip fills none, and neither does a `late` one, which came after its lease had
    passed to somebody else. `lease_token` names the showing that it answers and makes submitting idempotent; an imported
    judgment has none. The transaction that adds a newer row sets `superseded`. `import_id`: the import that brought it, unless
    that was before imports were noted; without a foreign key, which would slow imports down.
    """

    __tablename__ = "judgments"
    __table_args__ = (
        CheckConstraint("strength IS NULL OR strength BETWEEN 1 AND 3", name="strength"),
        CheckConstraint("NOT late OR slot_id IS NULL", name="late"),
        CheckConstraint("choice <> 'skip' OR slot_id IS NULL", name="skip"),
        Index("ix_judgments_comparison_user", "comparison_id", "user_id"),
        Index(
            "uq_judgments_current",
            "comparison_id",
            "user_id",
            unique=True,
            sqlite_where=text("NOT superseded"),
            postgresql_where=text("NOT superseded"),
        ),
        # What a slot's or a pair's removal looks for.
        Index(
            "ix_judgments_slot_id",
            "slot_id",
            sqlite_where=text("slot_id IS NOT NULL"),
            postgresql_where=text("slot_id IS NOT NULL"),
        ),
        # A person's own, the latest first: late pages of many pass over it alone.
        Index("ix_judgments_history", "project_id", "user_id", "superseded", "submitted_at", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparisons.id"))
    slot_id: Mapped[int | None] = mapped_column(ForeignKey("slots.id", ondelete="SET NULL"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    choice: Mapped[Choice] = mapped_column(string_enum(Choice, "choice"))
    strength: Mapped[int | None]
    rationale: Mapped[str] = mapped_column(Text, default="")
    flags: Mapped[list[Any]] = mapped_column(default=list)
    first_side: Mapped[Side | None] = mapped_column(string_enum(Side, "first_side"))
    shown_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime] = mapped_column(default=now)
    guideline_version: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(64), unique=True)
    source: Mapped[JudgmentSource] = mapped_column(string_enum(JudgmentSource, "source"), default=JudgmentSource.WEB)
    late: Mapped[bool] = mapped_column(default=False)
    superseded: Mapped[bool] = mapped_column(default=False)
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("judgments.id"), unique=True)
    import_id: Mapped[int | None]

    comparison: Mapped[Comparison] = relationship(lazy="raise")
    user: Mapped[User] = relationship(lazy="raise")
