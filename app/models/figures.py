"""Figures of large projects, which take longer to compute than a page may."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, JsonOf
from app.models.snapshot import Counts, Statistics


class KeptFigures(Base):
    """What a snapshot by a rule would have held at `as_of`; `seconds` is what it took to compute. `rule_key` is the rule's
    SHA-256. While `began_at` is set somebody computes; before the first time is over there are no figures."""

    __tablename__ = "kept_figures"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True, autoincrement=False)
    rule_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    rule: Mapped[dict[str, Any]]
    counts: Mapped[Counts | None] = mapped_column(JsonOf(Counts))
    statistics: Mapped[Statistics | None] = mapped_column(JsonOf(Statistics))
    as_of: Mapped[datetime | None]
    seconds: Mapped[float] = mapped_column(default=0.0)
    began_at: Mapped[datetime | None]
