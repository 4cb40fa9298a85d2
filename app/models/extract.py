"""An extract: a file with a project's data, made to be taken out."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import NEVER_AGAIN, Base, FileList, now, string_enum
from app.models.comparison import Split
from app.storage import StoredFile


class ExtractForm(StrEnum):
    """`own` holds everything of a project, every vote of it; the others the pairs of one split of a snapshot."""

    OWN = "own"
    TRL = "trl"
    OPENAI = "openai"


class Container(StrEnum):
    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    PARQUET = "parquet"


class ExtractState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Extract(Base):
    """`files` is the one file once it is done. `left_out` counts pairs that the form can't hold, by reason."""

    __tablename__ = "extracts"
    __table_args__ = (
        CheckConstraint("(form = 'own') = (snapshot_id IS NULL)", name="snapshot"),
        CheckConstraint("(form = 'own') = (split IS NULL)", name="of_split"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshots.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    form: Mapped[ExtractForm] = mapped_column(string_enum(ExtractForm, "form"))
    split: Mapped[Split | None] = mapped_column(string_enum(Split, "split"))
    container: Mapped[Container] = mapped_column(string_enum(Container, "container"))
    state: Mapped[ExtractState] = mapped_column(string_enum(ExtractState, "state"), default=ExtractState.RUNNING)
    lines: Mapped[int] = mapped_column(default=0)
    left_out: Mapped[dict[str, Any]] = mapped_column(default=dict)
    files: Mapped[tuple[StoredFile, ...]] = mapped_column(FileList, default=())
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
