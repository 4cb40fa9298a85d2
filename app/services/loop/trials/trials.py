"""Trials: this module starts, moves, stops and finds them; `steps` carries them on.

A trial holds no worker and no connection: it is a row, and the web server's sweeper looks now and then how far its runs are. They are
ordinary training runs, so cancel, retry and a killed worker are theirs.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app import paging
from app.config import Settings
from app.errors import Conflict, NotFound
from app.models import FINISHED, ArmTrial, ArmTrialRun, Job, JobState, Project, TrainingRun, TrialState, User
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.jobs import jobs
from app.services.loop.labels.cost import Cost
from app.services.loop.trials.plan import Plan
from app.services.training import estimates, parents, runs
from app.services.training.parents import Parent

ACTIVE = (TrialState.PREPARING, TrialState.TRAINING)
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)
OFFERED = 50  # runs among which those that a trial may rest on are looked for


def require(session: Session, *, run: TrainingRun, plan: Plan) -> Parent | None:
    """What the trial's runs start from, None for the base model. Raises Conflict for a run on which no trial can rest, Invalid where
    its snapshot holds too little to compare."""
    if run.job.state is not JobState.SUCCEEDED:
        raise Conflict(f"Run {run.job_id} is {run.job.state.value}.", "Choose a run that succeeded.")
    plan.check_for(run.snapshot.statistics, runs.train_pairs(run.snapshot))
    return parents.for_parts(session, run=run)


def cost(session: Session, *, run: TrainingRun, plan: Plan) -> Cost:
    """What a trial will take. Raises what `require` raises."""
    require(session, run=run, plan=plan)
    pairs = runs.train_pairs(run.snapshot) - plan.swapped(run.snapshot.statistics.arms)
    told = estimates.estimate(session, base_model=run.base_model, config=run.config, pairs=pairs)
    seconds = None if told.seconds is None else told.seconds * plan.runs
    return Cost(plan.runs, pairs, seconds, told.runs)


def require_start(settings: Settings, run: TrainingRun, parent: Parent | None) -> None:
    """Raises Invalid where the run's base model, or the weights that its parent was trained on, aren't here any more. It reads files:
    not within a write transaction."""
    runs.require(settings, base_model=run.base_model, config=run.config, parent=parent)


def begin(
    session: Session, *, project: Project, run: TrainingRun, plan: Plan, by: User, now: datetime | None = None
) -> tuple[ArmTrial, bool]:
    """A trial with the snapshot and the settings of a run, and whether it is new: the same wish finds the one that is under way.

    The caller asks `require_start` before the transaction. Raises NotFound for a run of another project, what
    `require` raises, and Conflict while another trial of the project is under way.
    """
    if run.job.project_id != project.id:
        raise runs.missing(run.job_id)
    require(session, run=run, plan=plan)
    if active := current(session, project=project):
        return _same(active, run, plan), False
    last = session.scalar(select(func.max(ArmTrial.number)).where(ArmTrial.project_id == project.id)) or 0
    row = ArmTrial(
        project_id=project.id,
        number=last + 1,
        of_job_id=run.job_id,
        plan=plan.stored(),
        created_by_id=by.id,
        created_at=now or utc_now(),
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:  # the other click of a double click was first
        active = current(session, project=project)
        if active is None:
            raise
        return _same(active, run, plan), False
    audit.record(session, by=by, action="trial.start", target=f"trial {row.id}", number=row.number, run=run.job_id)
    return get(session, row.id), True


def _same(active: ArmTrial, run: TrainingRun, plan: Plan) -> ArmTrial:
    if (active.of_job_id, active.plan) != (run.job_id, plan.stored()):
        raise Conflict(f"Trial {active.number} of this project is under way.", "Wait for its end, or stop it.")
    return active


def get(session: Session, trial_id: int) -> ArmTrial:
    """With its project and starter. Raises NotFound."""
    row = session.scalars(_loaded().where(ArmTrial.id == trial_id)).first()
    if row is None:
        raise NotFound(f"There is no trial {trial_id}.", "Look at the project's trials of arms.")
    return row


def numbered(session: Session, *, project: Project, number: int) -> ArmTrial:
    """A project's trial by its number. Raises NotFound."""
    query = _loaded().where(ArmTrial.project_id == project.id, ArmTrial.number == number)
    row = session.scalars(query).first() if 0 < number < 2**31 else None
    if row is None:
        raise NotFound(f"There is no trial {number} in this project.", "Look at the project's trials of arms.")
    return row


def current(session: Session, *, project: Project) -> ArmTrial | None:
    """The project's trial that is under way."""
    return session.scalars(_loaded().where(ArmTrial.project_id == project.id, ArmTrial.state.in_(ACTIVE))).first()


def listing(session: Session, *, project: Project, page: int = 1, size: int = 50) -> paging.Page[ArmTrial]:
    """A project's trials, the newest first."""
    return paging.fetch(
        session, _loaded().where(ArmTrial.project_id == project.id).order_by(ArmTrial.id.desc()), page=page, size=size
    )


def active(session: Session) -> list[int]:
    """The trials that may have something to do."""
    return list(session.scalars(select(ArmTrial.id).where(ArmTrial.state.in_(ACTIVE)).order_by(ArmTrial.id)))


def plan_of(row: ArmTrial) -> Plan:
    return Plan.stored_as(row.plan)


def runs_of(session: Session, *, trial_id: int) -> list[tuple[ArmTrialRun, Job]]:
    """A trial's runs so far, by seed and in the order in which they were queued."""
    rows = session.execute(
        select(ArmTrialRun, Job)
        .join(Job, Job.id == ArmTrialRun.job_id)
        .where(ArmTrialRun.trial_id == trial_id)
        .order_by(ArmTrialRun.seed, ArmTrialRun.job_id)
    )
    return list(rows.tuples())


def is_part(session: Session, *, job_id: int) -> bool:
    """Whether a run belongs to a trial: its checkpoint only measures."""
    return session.scalar(select(ArmTrialRun.trial_id).where(ArmTrialRun.job_id == job_id)) is not None


def possible_runs(session: Session, *, project: Project) -> Sequence[TrainingRun]:
    """The project's last runs that a trial may rest on: succeeded, from their base model or on new pairs only, and on pairs that arms
    asked."""
    newest = runs.listing(session, project=project, state=JobState.SUCCEEDED, size=OFFERED).items
    mine = set(
        session.scalars(select(ArmTrialRun.job_id).where(ArmTrialRun.job_id.in_([run.job_id for run in newest])))
    )
    starts = (run for run in newest if run.parent_id is None or parents.holds_new_pairs_only(run))
    fit = (run for run in starts if run.snapshot.statistics.arms)
    return [run for run in fit if run.job_id not in mine]


def stop(session: Session, *, row: ArmTrial, by: User, now: datetime | None = None) -> ArmTrial:
    """Ends a trial and cancels its runs that haven't ended. Asking again changes nothing. Raises Conflict for one that has ended."""
    if not move(session, row, TrialState.STOPPED, sources=ACTIVE, now=now):
        session.refresh(row, ["state"])
        if row.state is not TrialState.STOPPED:
            raise Conflict(f"Trial {row.number} has {row.state.value}.", "There is nothing to stop.")
        return get(session, row.id)
    for _, job in runs_of(session, trial_id=row.id):
        if job.state not in FINISHED and job.cancel_requested_at is None:
            jobs.cancel(session, job=jobs.get(session, job.id), by=by, now=now)
    audit.record(session, by=by, action="trial.stop", target=f"trial {row.id}", number=row.number)
    return get(session, row.id)


def retry(session: Session, *, row: ArmTrial, by: User, now: datetime | None = None) -> ArmTrial:
    """Queues the runs that failed or were cancelled again, or lets a trial that failed go on. Raises Conflict where nothing failed."""
    went_on = move(session, row, TrialState.PREPARING, sources=(TrialState.FAILED,), now=now, problem="")
    failed = [job for _, job in runs_of(session, trial_id=row.id) if job.state in ENDED_BADLY]
    if not went_on and (row.state not in ACTIVE or not failed):
        raise Conflict(f"Nothing of trial {row.number} has failed.", "There is nothing to try again.")
    for job in failed:
        jobs.retry(session, job=jobs.get(session, job.id), by=by, now=now)
    audit.record(session, by=by, action="trial.retry", target=f"trial {row.id}", number=row.number)
    return get(session, row.id)


def move(
    session: Session,
    row: ArmTrial,
    to: TrialState,
    *,
    sources: Sequence[TrialState],
    now: datetime | None = None,
    **values: Any,
) -> bool:
    """Takes a trial from one of these states to another; False where somebody else was first."""
    ended = None if to in ACTIVE else now or utc_now()
    where = update(ArmTrial).where(ArmTrial.id == row.id, ArmTrial.state.in_(sources))
    statement = where.values(state=to, ended_at=ended, **values).execution_options(synchronize_session=False)
    moved = cast(CursorResult[Any], session.execute(statement)).rowcount == 1
    if row in session:
        session.refresh(row)
    return moved


def _loaded() -> Select[ArmTrial]:
    return select(ArmTrial).options(joinedload(ArmTrial.project), joinedload(ArmTrial.created_by))
