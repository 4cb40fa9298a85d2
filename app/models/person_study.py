"""Whose preferences a run learned: the run again without each of some people's votes, compared on the same eval prompts."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, JsonOrNull, now


class PersonStudy(Base):
    """One wish. `people`: ids of users; `seeds`: each run is made with each. `result` is what services.loop.labels.learned wrote at
    `compared_at`, once all of its runs had succeeded."""

    __tablename__ = "person_studies"
    __table_args__ = (
        # What is still to be compared.
        Index(
            "ix_person_studies_waiting",
            "id",
            sqlite_where=text("compared_at IS NULL"),
            postgresql_where=text("compared_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    of_job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"), index=True)
    people: Mapped[list[Any]]
    seeds: Mapped[list[Any]]
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    compared_at: Mapped[datetime | None]


class PersonRun(Base):
    """A run of a study, with one seed: without one person's votes in the training pairs, or with everybody's (`user_id` None).
    A run may serve several studies. `pairs`: how many training pairs went or were decided anew."""

    __tablename__ = "person_runs"
    __table_args__ = (UniqueConstraint("study_id", "user_id", "seed"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("person_studies.id"))
    job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    seed: Mapped[int]
    pairs: Mapped[int] = mapped_column(default=0)
