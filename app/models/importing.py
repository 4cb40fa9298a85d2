"""An import: one file read into a project, with what became of its lines."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import NEVER_AGAIN, Base, Json, JsonOf, now, string_enum


class ImportState(StrEnum):
    """A draft is a file that was sent and looked at; nothing of it is stored yet."""

    DRAFT = "draft"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Rejection(TypedDict):
    """A line that was refused: its number from 1, a stable code, and a sentence for people."""

    line: int
    reason: str
    message: str


@dataclass(frozen=True)
class Difference:
    """A field in which a line differs from the same pair as it is stored, which stays as it was."""

    line: int
    field: str
    stored: str
    given: str


@dataclass(frozen=True)
class ImportReport:
    """What became of a file beyond its counts.

    recognised: what its columns were read as, in one sentence. columns: for each, the number of lines by what it became.
    notes: what was done that a line doesn't say by itself, and how often. differences: the first hundred.
    """

    recognised: str = ""
    columns: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)


class Import(Base):
    """One file read into a project. `rejections` holds the first thousand; `rejected` counts all. `judged` of the pairs,
    new ones and duplicates, came with a judgment that is new; `filled` duplicates brought fields that were missing.

    `mapping` is what a person said that columns become. `upload` names the file that a draft waits with.
    """

    __tablename__ = "imports"
    __table_args__ = NEVER_AGAIN

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    filename: Mapped[str] = mapped_column(String(255), default="")
    state: Mapped[ImportState] = mapped_column(string_enum(ImportState, "state"), default=ImportState.RUNNING)
    lines: Mapped[int] = mapped_column(default=0)
    added: Mapped[int] = mapped_column(default=0)
    judged: Mapped[int] = mapped_column(default=0)
    duplicates: Mapped[int] = mapped_column(default=0)
    filled: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[int] = mapped_column(default=0)
    rejections: Mapped[list[Rejection]] = mapped_column(Json, default=list)
    mapping: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report: Mapped[ImportReport] = mapped_column(JsonOf(ImportReport), default=ImportReport)
    upload: Mapped[str] = mapped_column(String(64), default="")
    stop_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class ColumnMap(Base):
    """What a person said that the columns of a file become, kept for the next file of the project with the same columns.
    `columns_hash` is that of their names in alphabetical order."""

    __tablename__ = "column_maps"
    __table_args__ = (UniqueConstraint("project_id", "columns_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    columns_hash: Mapped[str] = mapped_column(String(64))
    roles: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(default=now)
