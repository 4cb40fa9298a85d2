"""The two sides of an evaluation: a checkpoint, and its parent, its base or another checkpoint."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import Checkpoint, Evaluation, EvaluationState
from app.services.training import checkpoints

ACTIVE = (EvaluationState.PREPARING, EvaluationState.ASKING)
PARENT, BASE = "parent", "base"


@dataclass(frozen=True, slots=True)
class Sides:
    """The checkpoint and what it is compared with: another checkpoint, or the base model of that name."""

    checkpoint: Checkpoint
    opponent: Checkpoint | None
    model: str = ""

    @property
    def identities(self) -> dict[str, Any]:
        """What says which weights are compared, whatever becomes of the names."""
        return {
            f"{name}_snapshot": (side.provenance.get("snapshot") or {}).get("sha256") if side else None
            for name, side in (("checkpoint", self.checkpoint), ("opponent", self.opponent))
        }

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Sides":
        return cls(evaluation.checkpoint, evaluation.opponent, evaluation.opponent_model)


def resolve(session: Session, *, checkpoint_id: int, opponent: str) -> Sides:
    """opponent: `base`, `parent` (the checkpoint that the run started from, else its base model), or a checkpoint's id. Raises
    NotFound, and Invalid for what can't be compared."""
    checkpoint, opponent = checkpoints.get(session, checkpoint_id), opponent.strip()
    if opponent == PARENT and checkpoint.run.parent_id is not None:
        # Of another project it may be: whoever started the run from it was an engineer there.
        return Sides(checkpoint, checkpoints.get(session, checkpoint.run.parent_id))
    if opponent in (PARENT, BASE):
        return Sides(checkpoint, None, checkpoint.run.base_model)
    if not opponent.isascii() or not opponent.isdecimal():
        raise Invalid(
            f"“{opponent[:40]}” is nothing to compare with.",
            "Choose parent, base, or the number of a checkpoint.",
            field="opponent",
        )
    other = numbered(session, project_id=checkpoint.run.job.project_id, number=int(opponent[:12]))
    if other.id == checkpoint.id:
        raise Invalid(
            "A checkpoint can't be compared with itself.", "Choose its base, or another checkpoint.", field="opponent"
        )
    return Sides(checkpoint, other)


def numbered(session: Session, *, project_id: int, number: int) -> Checkpoint:
    """The checkpoint of a project that an opponent's number names. Raises NotFound."""
    try:
        other = checkpoints.get(session, number)
    except NotFound as error:
        raise NotFound(error.what, error.next_step, field="opponent") from error
    if other.run.job.project_id != project_id:  # hidden or not, it isn't of this project
        raise NotFound(f"There is no checkpoint {other.id}.", "Look at the list of checkpoints.", field="opponent")
    return other


def refuse_twice(session: Session, sides: Sides) -> None:
    """Raises Conflict where the same two are being compared."""
    same = select(Evaluation.number).where(
        Evaluation.checkpoint_id == sides.checkpoint.id,
        Evaluation.opponent_model == sides.model,
        Evaluation.opponent_id == sides.opponent.id if sides.opponent else Evaluation.opponent_id.is_(None),
        Evaluation.state.in_(ACTIVE),
    )
    number = session.scalar(same.limit(1))
    if number is not None:
        raise Conflict(
            f"Evaluation {number} compares the same two already.",
            "Wait until it is decided, or stop it.",
            number=number,
        )
