"""Verdicts: what an evaluation came to, computed outside of any transaction, kept with it, and cheap to read."""

import threading
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import Engine, Select, or_, select, update
from sqlalchemy.orm import Session, joinedload

from app.db import is_writing, read_session, write_session
from app.errors import NotFound
from app.models import Checkpoint, Evaluation, EvaluationState, Project, TrainingRun, User
from app.models.base import now as utc_now
from app.services.loop.verdict import evidence, figures
from app.services.loop.verdict.shape import FORM, Kept, Verdict

REST = timedelta(seconds=30)  # a verdict of a running batch is shown for so long before it is computed again
_LOCKS: dict[int, threading.Lock] = {}


def get(session: Session, evaluation_id: int) -> Evaluation:
    """The evaluation with its project, checkpoint and opponent. Raises NotFound."""
    row = session.scalar(_loaded().where(Evaluation.id == evaluation_id)) if 0 < evaluation_id < 2**31 else None
    if row is None:
        raise NotFound(f"There is no evaluation {evaluation_id}.", "Look at the project's evaluations.")
    return row


def by_number(session: Session, *, project: Project, number: int) -> Evaluation:
    """The evaluation by its number in the project. Raises NotFound."""
    known = 0 < number < 2**31
    of_project = (Evaluation.project_id == project.id, Evaluation.number == number)
    row = session.scalar(_loaded().where(*of_project)) if known else None
    if row is None:
        raise NotFound(f"There is no evaluation {number} in this project.", "Look at the project's evaluations.")
    return row


def of_checkpoint(session: Session, *, checkpoint_id: int) -> list[Evaluation]:
    """The evaluations of a checkpoint as the new side, the newest first."""
    query = _loaded().where(Evaluation.checkpoint_id == checkpoint_id).order_by(Evaluation.id.desc())
    return list(session.scalars(query))


def ended_of(session: Session, *, checkpoint_id: int) -> list[Kept]:
    """What is kept of a checkpoint's evaluations that have ended, the newest first: for its card."""
    rows = of_checkpoint(session, checkpoint_id=checkpoint_id)
    return [kept(session, row) for row in rows if not evidence.is_open(row)]


def ended_now(engine: Engine, *, checkpoint_id: int) -> list[Kept]:
    """The same, computed where nobody has looked since the end. Opens its own sessions, as `current` does."""
    with read_session(engine) as session:
        rows = of_checkpoint(session, checkpoint_id=checkpoint_id)
    return [current(engine, row.id) for row in rows if not evidence.is_open(row)]


def kept(session: Session, evaluation: Evaluation) -> Kept:
    """What is kept, whatever was judged since. Nothing is computed."""
    verdict = _read(evaluation)
    return Kept(evaluation, verdict, _names(session, verdict))


def current(engine: Engine, evaluation_id: int, *, now: datetime | None = None) -> Kept:
    """The verdict on what is judged by now. Of a running batch it may be half a minute old.

    It opens sessions of its own and computes between them, up to a second: never call it within a transaction.
    """
    if is_writing():
        raise RuntimeError("a verdict is computed within a write transaction: everybody else would wait for it")
    moment = now or utc_now()
    row = _look(engine, evaluation_id, moment)
    if row is None:
        with _LOCKS.setdefault(evaluation_id, threading.Lock()):  # one computes, the others then find it
            row = _look(engine, evaluation_id, moment)
            if row is None:
                compute(engine, evaluation_id, now=moment)
    with read_session(engine) as session:
        return kept(session, get(session, evaluation_id))


def compute(engine: Engine, evaluation_id: int, *, now: datetime | None = None) -> Verdict:
    """Computes the verdict and keeps it, unless a newer one is there or it is void. One that ended meanwhile is computed again: its
    word must not become that of a look before."""
    moment = now or utc_now()
    while True:
        with read_session(engine) as session:
            evaluation = get(session, evaluation_id)
            given = evidence.read(session, evaluation)
        verdict = figures.compute(given, as_of=moment)
        if evaluation.state is EvaluationState.VOID:
            return verdict
        with write_session(engine) as session:
            of_state = (Evaluation.id == evaluation_id, Evaluation.state == evaluation.state)
            session.execute(
                update(Evaluation)
                .where(*of_state, or_(Evaluation.verdict_at.is_(None), Evaluation.verdict_at <= moment))
                .values(verdict=verdict.model_dump(mode="json"), verdict_at=moment, word=verdict.word.value),
                execution_options={"synchronize_session": False},
            )
            if session.scalar(select(Evaluation.id).where(*of_state)) is not None:
                return verdict


def _look(engine: Engine, evaluation_id: int, now: datetime) -> Evaluation | None:
    """The evaluation, if what is kept of it may be shown; None where it must be computed."""
    with read_session(engine) as session:
        row = get(session, evaluation_id)
        if row.state in (EvaluationState.PREPARING, EvaluationState.VOID):
            return row  # nothing counts yet, or nothing counts any more
        verdict = _read(row)
        if verdict is None:
            return None
        basis = evidence.basis(session, row)
        if verdict.basis == basis:
            return row
        may_rest = row.state is EvaluationState.ASKING and verdict.basis.state == row.state.value
        return row if may_rest and row.verdict_at is not None and now - row.verdict_at < REST else None


def _read(evaluation: Evaluation) -> Verdict | None:
    """What is kept, unless another version of the program wrote it in a form of its own."""
    if evaluation.verdict is None:
        return None
    try:
        verdict = Verdict.model_validate(evaluation.verdict)
    except ValidationError:
        return None
    return verdict if verdict.basis.form == FORM else None


def _names(session: Session, verdict: Verdict | None) -> dict[int, str]:
    """Names of the people in a verdict. A kept one holds their ids alone, so a name that changes or goes stays nowhere."""
    if verdict is None:
        return {}
    people = {one.user_id for group in (verdict.by_person, verdict.sides, verdict.speed) for one in group}
    named = select(User.id, User.display_name).where(User.id.in_(people))
    return {user_id: name for user_id, name in session.execute(named).tuples()}  # noqa: C416 — mypy reads no dict() of it


def _loaded() -> Select[Evaluation]:
    run = joinedload(Evaluation.checkpoint).joinedload(Checkpoint.run)
    return select(Evaluation).options(
        joinedload(Evaluation.project), joinedload(Evaluation.opponent), run.joinedload(TrainingRun.job)
    )
