"""Kept counts of projects and of the people who judge in them. services.collecting.counts is their only writer."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class ProjectCount(Base):
    """What an import, or a change of a project's rules, counts: comparisons, of these gold questions (`golds`) and those whose
    prompt is kept for evaluation (`evals`), and wanted judgments. `arrivals` goes up whenever slots come. `asking`:
    evaluations that ask now; their pairs count as wanted judgments only.

    `offered` (comparisons with an open slot) and `judged` (comparisons without one that waits) are sums: this row's part
    and those of all EvaluatorCounts.
    """

    __tablename__ = "project_counts"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True, autoincrement=False)
    comparisons: Mapped[int] = mapped_column(default=0)
    golds: Mapped[int] = mapped_column(default=0)
    evals: Mapped[int] = mapped_column(default=0)
    wanted: Mapped[int] = mapped_column(default=0)
    offered: Mapped[int] = mapped_column(default=0)
    judged: Mapped[int] = mapped_column(default=0)
    arrivals: Mapped[int] = mapped_column(default=0)
    asking: Mapped[int] = mapped_column(default=0)


class EvaluatorCount(Base):
    """What one person's judging counts in one project: their judgments (`stored` with superseded ones, `judgments` that are current,
    `imported` of these), slots that they filled (`done`), and comparisons that they judged and that have an open slot
    (`known_offered`). `offered` and `judged` are this person's part of the project's sums, and may be negative.

    Nobody else's judging writes this row, but where it opens or closes what this person knows. `place`, `place_arrivals` and
    `reopened_until` say up to where the order of slots holds nothing for this person; slots.take explains them.
    """

    __tablename__ = "evaluator_counts"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True, autoincrement=False)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, autoincrement=False)
    stored: Mapped[int] = mapped_column(default=0)
    judgments: Mapped[int] = mapped_column(default=0)
    imported: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    known_offered: Mapped[int] = mapped_column(default=0)
    offered: Mapped[int] = mapped_column(default=0)
    judged: Mapped[int] = mapped_column(default=0)
    place: Mapped[int | None] = mapped_column(BigInteger)
    place_arrivals: Mapped[int | None]
    reopened_until: Mapped[datetime | None]
