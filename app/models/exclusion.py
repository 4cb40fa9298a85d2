"""What isn't to be trained on any more, though it was collected: history beside the rows that it is about, which stay as they are."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import NEVER_AGAIN, Base, now, string_enum


class ExclusionKind(StrEnum):
    """What is left out: all votes of a person in a project, one judgment, a pair, or all pairs that an import added."""

    PERSON = "person"
    JUDGMENT = "judgment"
    PAIR = "pair"
    IMPORT = "import"


def _in_force(name: str, *columns: str) -> Index:
    """One exclusion in force at a time."""
    where = text(f"{columns[-1]} IS NOT NULL AND lifted_at IS NULL")
    return Index(name, *columns, unique=True, sqlite_where=where, postgresql_where=where)


class Exclusion(Base):
    """In force until it is lifted (`lifted_at`). `settled`: the slots of its pairs are as they are to be, and the snapshots that hold
    them are marked, which may take some transactions. `removed` of an import's pairs, those that nobody had judged, are gone for
    good."""

    __tablename__ = "exclusions"
    __table_args__ = (
        CheckConstraint("(kind = 'person') = (user_id IS NOT NULL)", name="person"),
        CheckConstraint("(kind = 'judgment') = (judgment_id IS NOT NULL)", name="judgment"),
        CheckConstraint("(kind = 'pair') = (comparison_id IS NOT NULL)", name="pair"),
        CheckConstraint("(kind = 'import') = (import_id IS NOT NULL)", name="import"),
        CheckConstraint("lifted_at IS NOT NULL OR lifted_by_id IS NULL", name="lifted"),
        _in_force("uq_exclusions_person", "project_id", "user_id"),
        _in_force("uq_exclusions_judgment", "judgment_id"),
        _in_force("uq_exclusions_pair", "comparison_id"),
        _in_force("uq_exclusions_import", "import_id"),
        Index("ix_exclusions_project_id_id", "project_id", "id"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[ExclusionKind] = mapped_column(string_enum(ExclusionKind, "kind"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    judgment_id: Mapped[int | None] = mapped_column(ForeignKey("judgments.id"), index=True)
    comparison_id: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id"), index=True)
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"))
    reason: Mapped[str] = mapped_column(Text, default="")
    by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = mapped_column(default=now)
    lifted_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    lifted_at: Mapped[datetime | None]
    settled: Mapped[bool] = mapped_column(default=True)
    removed: Mapped[int] = mapped_column(default=0)


class LeftoverFile(Base):
    """A stored file whose row is gone with its project; it goes from the store next. Without foreign keys: it outlives both."""

    __tablename__ = "leftover_files"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    project_id: Mapped[int] = mapped_column(index=True)
