"""Rounds: the whole loop by one wish. This module starts, moves, stops and finds them; `steps` carries them on.

A round holds no worker and no connection while it waits: it is a row that names what it waits for, and the web server's sweeper (or
`prefloop loop --wait`) looks now and then whether that has come.
"""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app import paging
from app.errors import Conflict, NotFound
from app.models import FINISHED, Job, JobState, Project, User
from app.models.base import now as utc_now
from app.models.evaluation import Evaluation, EvaluationState
from app.models.round import ROUND_TRANSITIONS, Round, RoundState, RoundStep
from app.services.accounts import audit
from app.services.collecting import counts
from app.services.jobs import jobs
from app.services.loop import batches, evaluations
from app.services.loop.rounding.plan import RoundPlan

STEPS = tuple(RoundStep)


def start(
    session: Session, *, project: Project, plan: RoundPlan, by: User, now: datetime | None = None
) -> tuple[Round, bool]:
    """A project's round, and whether it is new: one at a time, and the same wish finds the one that runs.

    The caller asks `steps.require` before the transaction. Raises Conflict where another round hasn't ended.
    """
    now = now or utc_now()
    if active := current(session, project=project):
        return _same(active, plan), False
    last = session.scalar(select(func.max(Round.number)).where(Round.project_id == project.id)) or 0
    row = Round(
        project_id=project.id,
        number=last + 1,
        plan=plan.stored(),
        step=RoundStep.ANSWERS if plan.sources else RoundStep.JUDGMENTS,
        judged_before=counts.figures(session, project_id=project.id).judgments,
        created_by_id=by.id,
        created_at=now,
        changed_at=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:  # the other click of a double click was first
        active = current(session, project=project)
        if active is None:
            raise
        return _same(active, plan), False
    audit.record(session, by=by, action="round.start", target=f"round {row.id}", number=row.number)
    return get(session, row.id), True


def _same(active: Round, plan: RoundPlan) -> Round:
    if plan_of(active) != plan:
        raise Conflict(
            f"Round {active.number} of this project hasn't ended.", "Stop it, or wait for its end.", round_id=active.id
        )
    return active


def get(session: Session, round_id: int) -> Round:
    """With its project and starter. Raises NotFound."""
    row = session.scalars(_loaded().where(Round.id == round_id)).first() if 0 < round_id < 2**31 else None
    if row is None:
        raise NotFound(f"There is no round {round_id}.", "Look at the project's rounds.")
    return row


def numbered(session: Session, *, project: Project, number: int) -> Round:
    """A project's round by its number. Raises NotFound."""
    query = _loaded().where(Round.project_id == project.id, Round.number == number)
    row = session.scalars(query).first() if 0 < number < 2**31 else None
    if row is None:
        raise NotFound(f"There is no round {number} in this project.", "Look at the project's rounds.")
    return row


def current(session: Session, *, project: Project) -> Round | None:
    """The project's round that hasn't ended."""
    unended = Round.state.in_([RoundState.RUNNING, RoundState.FAILED])
    return session.scalars(_loaded().where(Round.project_id == project.id, unended)).first()


def listing(session: Session, *, project: Project, page: int = 1, size: int = 50) -> paging.Page[Round]:
    """A project's rounds, the newest first."""
    query = _loaded().where(Round.project_id == project.id).order_by(Round.id.desc())
    return paging.fetch(session, query, page=page, size=size)


def running(session: Session) -> list[int]:
    """The rounds that may have something to do."""
    return list(session.scalars(select(Round.id).where(Round.state == RoundState.RUNNING).order_by(Round.id)))


def plan_of(row: Round) -> RoundPlan:
    return RoundPlan.of(row.plan)


def step_on(
    session: Session, row: Round, *, source: RoundStep, to: RoundStep, now: datetime | None = None, **values: Any
) -> bool:
    """Takes a running round from one step to the same or a later one; False where somebody else was first."""
    if STEPS.index(to) < STEPS.index(source):
        raise ValueError(f"no round goes from {source} back to {to}")
    where = update(Round).where(Round.id == row.id, Round.state == RoundState.RUNNING, Round.step == source)
    return _changed(session, where.values(step=to, changed_at=now or utc_now(), **values))


def finish(session: Session, row: Round, *, now: datetime | None = None) -> bool:
    """Ends a round that came to its verdict, or that wants none."""
    return _move(session, row, RoundState.FINISHED, source=RoundState.RUNNING, now=now, step=RoundStep.VERDICT)


def fail(session: Session, row: Round, problem: str, *, now: datetime | None = None) -> bool:
    """Keeps why a round can't go on at the step that `row` stands at. What it made stays, and `retry` goes on from it."""
    return _move(session, row, RoundState.FAILED, source=RoundState.RUNNING, now=now, problem=problem[:1000])


def retry(session: Session, *, row: Round, by: User, now: datetime | None = None) -> Round:
    """Lets a failed round go on at the step that failed, its job queued again. Raises Conflict for one that hasn't failed."""
    if not _move(session, row, RoundState.RUNNING, source=RoundState.FAILED, now=now, problem=""):
        raise Conflict(
            f"Round {row.number} is {_state(session, row).value}.", "Only a failed round can be tried again."
        )
    job = _job(session, row)
    if job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
        jobs.retry(session, job=job, by=by, now=now)
    audit.record(session, by=by, action="round.retry", target=f"round {row.id}", step=row.step.value)
    return get(session, row.id)


def stop(session: Session, *, row: Round, by: User, now: datetime | None = None) -> Round:
    """Ends a round where it is: its job is cancelled, its evaluation stopped, and everything that it made stays.
    Asking again changes nothing. Raises Conflict for one that is finished."""
    for source in (RoundState.RUNNING, RoundState.FAILED):
        if _move(session, row, RoundState.STOPPED, source=source, now=now):
            break
    else:
        if _state(session, row) is not RoundState.STOPPED:
            raise Conflict(f"Round {row.number} is finished.", "There is nothing to stop.")
        return get(session, row.id)
    session.refresh(row)
    job = _job(session, row)
    if job is not None and job.state not in FINISHED:
        jobs.cancel(session, job=job, by=by, now=now)
    evaluation = session.get(Evaluation, row.evaluation_id) if row.evaluation_id else None
    if evaluation is not None and evaluation.state in (EvaluationState.PREPARING, EvaluationState.ASKING):
        batches.stop(session, evaluation=evaluations.get(session, evaluation.id), by=by)
    audit.record(session, by=by, action="round.stop", target=f"round {row.id}", step=row.step.value)
    return get(session, row.id)


def _job(session: Session, row: Round) -> Job | None:
    """The job of the step at which a round stands."""
    evaluation = session.get(Evaluation, row.evaluation_id) if row.evaluation_id else None
    job_id = {
        RoundStep.ANSWERS: row.generation_job_id,
        RoundStep.TRAINING: row.training_job_id,
        RoundStep.EVALUATION: evaluation.job_id if evaluation else None,
    }.get(row.step)
    return jobs.get(session, job_id) if job_id else None


def _move(
    session: Session, row: Round, to: RoundState, *, source: RoundState, now: datetime | None, **values: Any
) -> bool:
    if to not in ROUND_TRANSITIONS[source]:
        raise ValueError(f"no round goes from {source} to {to}")
    now = now or utc_now()
    ended = now if not ROUND_TRANSITIONS[to] else None
    where = update(Round).where(Round.id == row.id, Round.state == source)
    if to is RoundState.FAILED:  # not for a step that somebody else has left meanwhile
        where = where.where(Round.step == row.step)
    moved = _changed(session, where.values(state=to, changed_at=now, ended_at=ended, **values))
    if row in session:  # a step has it from an earlier look
        session.refresh(row)
    return moved


def _state(session: Session, row: Round) -> RoundState:
    session.refresh(row, ["state"])
    return row.state


def _changed(session: Session, statement: Any) -> bool:
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], result).rowcount == 1


def _loaded() -> Select[Round]:
    return select(Round).options(joinedload(Round.project), joinedload(Round.created_by))
