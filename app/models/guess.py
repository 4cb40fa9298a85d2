"""Guesses of evaluators, after a batch, which answer of a pair was the new one: they say whether blinding held."""

from datetime import datetime

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, now


class EvaluationGuess(Base):
    """One person's guess on one pair that they had judged: `response_id` is the answer that they take for the new one."""

    __tablename__ = "evaluation_guesses"
    __table_args__ = (UniqueConstraint("pair_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), index=True)
    pair_id: Mapped[int] = mapped_column(ForeignKey("evaluation_pairs.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    response_id: Mapped[int] = mapped_column(ForeignKey("responses.id"))
    at: Mapped[datetime] = mapped_column(default=now)
