"""Whether a name may move to a checkpoint: the verdict that its rule asks for."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Alias, Checkpoint, Continuation, Evaluation, EvaluationState, NeededVerdict
from app.services.loop.evaluating import since
from app.stats.loop.decision import Word

ENOUGH = {
    NeededVerdict.NONE: frozenset[str](),
    NeededVerdict.NOT_WORSE: frozenset({Word.BETTER.value, Word.NOT_WORSE.value}),
    NeededVerdict.BETTER: frozenset({Word.BETTER.value}),
}
ASKED_FOR = {NeededVerdict.BETTER: "better", NeededVerdict.NOT_WORSE: "not worse"}


class GateClosed(Conflict):
    code = "gate_closed"


def justification(session: Session, *, alias: Alias, checkpoint_id: int) -> Evaluation | None:
    """The newest decided evaluation of the checkpoint that speaks for it: against what the alias means now, or, where it means
    nothing yet, against the checkpoint's base or parent.

    Raises GateClosed where the rule asks for a verdict that isn't there.
    """
    query = select(Evaluation).where(
        Evaluation.project_id == alias.project_id,
        Evaluation.checkpoint_id == checkpoint_id,
        Evaluation.state == EvaluationState.DECIDED,
    )
    if alias.checkpoint_id is not None:
        query = query.where(Evaluation.opponent_id == alias.checkpoint_id)
    else:
        parent = select(Continuation.checkpoint_id).join(Checkpoint, Checkpoint.job_id == Continuation.job_id)
        is_parent = Evaluation.opponent_id == parent.where(Checkpoint.id == checkpoint_id).scalar_subquery()
        query = query.where(or_(Evaluation.opponent_id.is_(None), is_parent))
    decided = list(session.scalars(query.order_by(Evaluation.id.desc())))
    # Asked of the newest alone: an older one that said otherwise must not be picked out.
    newest = decided[0] if decided else None
    if newest is not None and (void := [one for one in since.learnt(session, newest) if one.is_side]):
        if alias.needs_verdict is not NeededVerdict.NONE:
            raise _closed(alias, checkpoint_id, newest, void[0].sentence)
        return None
    speaks_for_it = newest is not None and newest.word in ENOUGH[NeededVerdict.NOT_WORSE]
    if alias.needs_verdict is not NeededVerdict.NONE and (
        newest is None or newest.word not in ENOUGH[alias.needs_verdict]
    ):
        raise _closed(alias, checkpoint_id, newest)
    return newest if speaks_for_it else None


def _closed(alias: Alias, checkpoint_id: int, newest: Evaluation | None, void: str = "") -> GateClosed:
    other = f"checkpoint {alias.checkpoint_id}" if alias.checkpoint_id is not None else "its base or its parent"
    needed = ASKED_FOR[alias.needs_verdict]
    if newest is None:
        said = f"No evaluation of checkpoint {checkpoint_id} against {other} is decided."
    elif void:
        said = f"Evaluation {newest.number} says nothing any more. {void}"
    else:
        said = f"Evaluation {newest.number} of checkpoint {checkpoint_id} says “{newest.word.replace('_', ' ')}”."
    return GateClosed(
        f"“{alias.name}” moves only to a checkpoint that is {needed}. {said}",
        f"Evaluate checkpoint {checkpoint_id} against {other}, or change the rule of “{alias.name}”.",
    )
