"""An import: one file read into a project, with what became of its lines."""

from datetime import datetime
from enum import StrEnum
from typing import TypedDict

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Json, now, string_enum


class ImportState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Rejection(TypedDict):
    """A line that was refused: its number from 1, a stable code, and a sentence for people."""

    line: int
    reason: str
    message: str


class Import(Base):
    """One file read into a project. `rejections` holds the first thousand; `rejected` counts all. `judged` of the pairs,
    new ones and duplicates, came with a judgment that is new."""

    __tablename__ = "imports"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    filename: Mapped[str] = mapped_column(String(255), default="")
    state: Mapped[ImportState] = mapped_column(string_enum(ImportState, "state"), default=ImportState.RUNNING)
    added: Mapped[int] = mapped_column(default=0)
    judged: Mapped[int] = mapped_column(default=0)
    duplicates: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[int] = mapped_column(default=0)
    rejections: Mapped[list[Rejection]] = mapped_column(Json, default=list)
    error: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    @property
    def lines(self) -> int:
        """Lines read so far: each became a pair, was one already, or was rejected."""
        return self.added + self.duplicates + self.rejected
