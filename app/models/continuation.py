"""That a run starts from a checkpoint instead of its base model."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class Continuation(Base):
    """The checkpoint that a run starts from; it is the run's reference too. A table of its own, because checkpoints name runs."""

    __tablename__ = "continuations"

    job_id: Mapped[int] = mapped_column(ForeignKey("training_runs.job_id"), primary_key=True, autoincrement=False)
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"), index=True)
