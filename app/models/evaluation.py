"""Evaluations: a checkpoint's blind batch against an opponent, by a plan that is fixed before the first judgment."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import NEVER_AGAIN, Base, JsonOrNull, now, string_enum
from app.models.checkpoint import Checkpoint
from app.models.project import Project


class EvaluationState(StrEnum):
    """preparing: its answers are being made; asking: people judge; decided: the goal, *worse* or the maximum was reached;
    stopped: a person ended it; void: its prompts were trained on, or its answers couldn't be made."""

    PREPARING = "preparing"
    ASKING = "asking"
    DECIDED = "decided"
    STOPPED = "stopped"
    VOID = "void"


# Only services.loop.evaluations changes an evaluation's state, by compare-and-set.
EVALUATION_TRANSITIONS: dict[EvaluationState, frozenset[EvaluationState]] = {
    EvaluationState.PREPARING: frozenset({EvaluationState.ASKING, EvaluationState.STOPPED, EvaluationState.VOID}),
    EvaluationState.ASKING: frozenset({EvaluationState.DECIDED, EvaluationState.STOPPED, EvaluationState.VOID}),
    EvaluationState.DECIDED: frozenset({EvaluationState.VOID}),
    EvaluationState.STOPPED: frozenset({EvaluationState.VOID}),
    EvaluationState.VOID: frozenset(),
}


class Evaluation(Base):
    """One blind batch. Everything from `checkpoint_id` to `seed` is the plan, and `plan_sha256` the hash of it and of its prompts in order.

    The opponent is a checkpoint, or the base model that `opponent_model` names. `goal`, `margin`, `maximum` and
    `confidence` are those of stats.loop.decision.Plan; `votes` are wanted of each prompt; `both_bad` and `skips` say how
    these choices count. `share` is the percentage of evaluation pairs in the queue. `stop` is why it was decided
    (stats.loop.decision.Stop), `reason` why it was stopped or is void. `verdict` is the newest, as services.loop.verdicts
    wrote it at `verdict_at`, and `word` its word.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        Index("ix_evaluations_project_id_state", "project_id", "state"),
        Index("ix_evaluations_checkpoint_id", "checkpoint_id"),
        UniqueConstraint("project_id", "number"),
        CheckConstraint("(opponent_id IS NULL) = (opponent_model <> '')", name="opponent"),
        CheckConstraint("share BETWEEN 1 AND 100", name="share"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    state: Mapped[EvaluationState] = mapped_column(
        string_enum(EvaluationState, "state"), default=EvaluationState.PREPARING
    )
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"))
    opponent_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id"))
    opponent_model: Mapped[str] = mapped_column(String(255), default="")
    goal: Mapped[str] = mapped_column(String(24))
    margin: Mapped[float]
    maximum: Mapped[int]
    confidence: Mapped[float] = mapped_column(default=0.95)
    votes: Mapped[int] = mapped_column(default=1)
    both_bad: Mapped[str] = mapped_column(String(24), default="tie")
    skips: Mapped[str] = mapped_column(String(24), default="ask_others")
    prompts: Mapped[dict[str, Any]]
    sampling: Mapped[dict[str, Any]]
    share: Mapped[int] = mapped_column(default=30)
    seed: Mapped[int] = mapped_column(BigInteger)
    plan_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    reason: Mapped[str] = mapped_column(String(500), default="")
    stop: Mapped[str] = mapped_column(String(24), default="")
    word: Mapped[str] = mapped_column(String(24), default="")
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
    verdict_at: Mapped[datetime | None]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    asking_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    @property
    def outcome(self) -> str:
        """The word that it was decided with; of one that isn't decided, its state: a word while it asks is nobody's verdict."""
        return self.word if self.state is EvaluationState.DECIDED and self.word else self.state.value

    project: Mapped[Project] = relationship(lazy="raise")
    checkpoint: Mapped[Checkpoint] = relationship(foreign_keys=checkpoint_id, lazy="raise")
    opponent: Mapped[Checkpoint | None] = relationship(foreign_keys=opponent_id, lazy="raise")


class EvaluationPair(Base):
    """One prompt of an evaluation, at its drawn `place` in the order, made with the plan; its answers come with the job.

    `comparison_id` is what people judge, None until the answers are there and where both are the same (`same`: a tie
    that nobody is asked about). `value` is its win rate, 1 where the checkpoint won, once all wanted votes are in.
    `left_out` says why it doesn't count (an answer that failed, a pair that was judged already), empty where it does.
    `tells`: what may give a side away, by side.
    """

    __tablename__ = "evaluation_pairs"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "place"),
        UniqueConstraint("evaluation_id", "prompt_id"),
        UniqueConstraint("comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    place: Mapped[int]
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    new_response_id: Mapped[int | None] = mapped_column(ForeignKey("responses.id"), index=True)
    old_response_id: Mapped[int | None] = mapped_column(ForeignKey("responses.id"), index=True)
    comparison_id: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id"))
    same: Mapped[bool] = mapped_column(default=False)
    left_out: Mapped[str] = mapped_column(String(48), default="")
    tells: Mapped[dict[str, Any]] = mapped_column(default=dict)
    value: Mapped[float | None]
