"""A snapshot: a frozen dataset that never changes."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, now
from app.models.project import Project


class Snapshot(Base):
    """`files` lists {name, key, size, sha256, pairs}; `sha256` is over the files' own hashes in name order."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("project_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    rule: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    statistics: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project] = relationship(lazy="raise")
