"""A team's own names on checkpoints, with their history: who moved which name where, when, why, and by which verdict."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, now, string_enum
from app.models.checkpoint import Checkpoint
from app.models.user import User


class NeededVerdict(StrEnum):
    """What a rule asks of a checkpoint before the name may move to it: nothing, not worse, or better."""

    NONE = "none"
    NOT_WORSE = "not_worse"
    BETTER = "better"


class Deed(StrEnum):
    """What happened to an alias."""

    ASKED = "asked"
    MOVED = "moved"
    DECLINED = "declined"
    BACK = "back"
    RULE = "rule"
    REMOVED = "removed"


class Alias(Base):
    """A name in a project and the checkpoint that it means, None where it means none (yet, or any more).

    `needs_verdict` and `needs_approval` are its rule. `asked_…` is a move that waits for another person's approval.
    services.loop.aliases is its only writer.
    """

    __tablename__ = "aliases"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        CheckConstraint("asked_id IS NULL OR asked_by_id IS NOT NULL", name="asked"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(40))
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    needs_verdict: Mapped[NeededVerdict] = mapped_column(
        string_enum(NeededVerdict, "needs_verdict"), default=NeededVerdict.NONE
    )
    needs_approval: Mapped[bool] = mapped_column(default=False)
    asked_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"))
    asked_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    asked_at: Mapped[datetime | None]
    asked_why: Mapped[str] = mapped_column(String(500), default="")
    moved_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    checkpoint: Mapped[Checkpoint | None] = relationship(foreign_keys=checkpoint_id, lazy="raise")
    asked_by: Mapped[User | None] = relationship(foreign_keys=asked_by_id, lazy="raise")

    @property
    def seen(self) -> str:
        """What a reader sees of it and decides on: what it means, and the move that waits."""
        return f"{self.checkpoint_id or 0}-{self.asked_id or 0}"


class AliasEvent(Base):
    """Append-only. `checkpoint_id`: where it moved, or was asked to; `previous_id`: what it meant before; `evaluation_id`: the
    verdict that justified it; `user_id`: who did it, `asked_by_id` who had asked for it."""

    __tablename__ = "alias_events"
    __table_args__ = (Index("ix_alias_events_alias_id_id", "alias_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    alias_id: Mapped[int] = mapped_column(ForeignKey("aliases.id"))
    at: Mapped[datetime] = mapped_column(default=now)
    deed: Mapped[Deed] = mapped_column(string_enum(Deed, "deed"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    asked_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"))
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"))
    why: Mapped[str] = mapped_column(String(500), default="")

    user: Mapped[User | None] = relationship(foreign_keys=user_id, lazy="raise")
    asked_by: Mapped[User | None] = relationship(foreign_keys=asked_by_id, lazy="raise")
