"""Label checks: each pair of a run's snapshot, asked of models that weren't trained on it."""

from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import Base, FileList, JsonOrNull
from app.models.job import Job
from app.models.training_run import TrainingRun
from app.storage import StoredFile


class LabelCheck(Base):
    """One a job, made with it; one a run and plan, so that a second wish finds the first one's job.

    `plan` is {folds, shares, plantings}. `files` (every pair's figures) and `result` (what they come to, as
    services.loop.labels.findings wrote it) come with the job's end.
    """

    __tablename__ = "label_checks"
    __table_args__ = (UniqueConstraint("of_job_id", "plan_key"),)

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, autoincrement=False)
    of_job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"))
    plan: Mapped[dict[str, Any]]
    plan_key: Mapped[str] = mapped_column(String(64))
    files: Mapped[tuple[StoredFile, ...]] = mapped_column(FileList, default=())
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)

    job: Mapped[Job] = relationship(lazy="raise")
    run: Mapped[TrainingRun] = relationship(lazy="raise")


class CheckedPair(Base):
    """A pair that a label check lists, with its figures as `python -m worker.dpo margins` prints them.

    `contradicts` and `lowers` are its place in each list, from 1, None where it isn't in it: pairs whose label the other pairs
    contradict, and pairs that would push the chosen answer down too. `first_chosen`, `votes` and `votes_chosen` are the snapshot's.
    """

    __tablename__ = "checked_pairs"
    __table_args__ = (UniqueConstraint("job_id", "contradicts"), UniqueConstraint("job_id", "lowers"))

    job_id: Mapped[int] = mapped_column(ForeignKey("label_checks.job_id"), primary_key=True, autoincrement=False)
    comparison_id: Mapped[int] = mapped_column(
        ForeignKey("comparisons.id"), primary_key=True, autoincrement=False, index=True
    )
    contradicts: Mapped[int | None]
    lowers: Mapped[int | None]
    first_chosen: Mapped[bool]
    votes: Mapped[int]
    votes_chosen: Mapped[int]
    margin: Mapped[float]
    ches: Mapped[float]
    ches_normalised: Mapped[float]
    on_policy_gap: Mapped[float]
