"""Label checks: queue one, find it again, and keep what its job found."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from app.bulk import insert_rows
from app.errors import Conflict, NotFound
from app.models import CheckedPair, Job, JobKind, JobState, LabelCheck, TrainingRun, User
from app.services.jobs import jobs
from app.services.loop.labels import findings
from app.services.loop.labels.findings import Findings
from app.services.loop.labels.plan import Plan
from app.services.training import parents, runs
from app.storage import Storage, StoredFile

MOST_OF_A_RUN = 50
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


def begin(session: Session, *, run: TrainingRun, plan: Plan, by: User | None) -> LabelCheck:
    """Queue a check of a run's labels, or find the one that this run has by this plan already.

    One that failed or was cancelled is tried again. Raises what `require` raises.
    """
    plan = require(session, run=run, plan=plan)
    key = key_of(run, plan)
    # One at a time for a run: a double click finds the first click's job.
    session.execute(select(TrainingRun.job_id).where(TrainingRun.job_id == run.job_id).with_for_update())
    of_plan = _loaded().where(LabelCheck.of_job_id == run.job_id, LabelCheck.plan_key == key)
    known = session.scalars(of_plan).one_or_none()
    if known is not None:
        if known.job.state in ENDED_BADLY:
            jobs.retry(session, job=known.job, by=by)
        return known
    job, _ = jobs.queue(
        session, kind=JobKind.LABEL_CHECK, project_id=run.job.project_id, by=by, run=run.job_id, plan=key
    )
    session.add(LabelCheck(job_id=job.id, of_job_id=run.job_id, plan=plan.stored(), plan_key=key, files=()))
    session.flush()
    return get(session, job.id)


def require(session: Session, *, run: TrainingRun, plan: Plan) -> Plan:
    """The plan, checked. Raises Conflict for a run whose labels can't be checked, Invalid for the plan."""
    plan = plan.checked()
    if run.job.state is not JobState.SUCCEEDED:
        raise Conflict(
            f"Run {run.job_id} is {run.job.state.value}.", "The labels of a run that succeeded can be checked."
        )
    plan.check_for(runs.train_pairs(run.snapshot))
    parents.for_parts(session, run=run)
    return plan


def key_of(run: TrainingRun, plan: Plan) -> str:
    """The same for the same plan and start."""
    return plan.key if run.parent_id is None else f"{plan.key}, from checkpoint {run.parent_id}"


def is_of_another_start(check: LabelCheck) -> bool:
    """Whether its models started from the base model although the run started from a checkpoint: earlier versions did that."""
    return check.plan_key != key_of(check.run, Plan.of(check.plan))


def get(session: Session, job_id: int) -> LabelCheck:
    """The check that a job makes, with the job, its run and the run's snapshot. Raises NotFound."""
    wanted = _loaded().where(LabelCheck.job_id == job_id)
    check = session.scalars(wanted).one_or_none() if 0 < job_id < 2**31 else None
    if check is None:
        raise NotFound(f"There is no label check {job_id}.", "A run's page lists its label checks.")
    return check


def of_run(session: Session, *, job_id: int) -> list[LabelCheck]:
    """A run's checks, the newest first, each with its job."""
    rows = _loaded().where(LabelCheck.of_job_id == job_id).order_by(LabelCheck.job_id.desc())
    return list(session.scalars(rows.limit(MOST_OF_A_RUN)))


def file(check: LabelCheck, name: str) -> StoredFile:
    """One file by its exact name. Raises NotFound."""
    for stored in check.files:
        if stored.name == name:
            return stored
    raise NotFound(f"Label check {check.job_id} has no file “{name[:120]}”.", "A finished one lists its files.")


def upload(storage: Storage, paths: Sequence[Path], *, prefix: str) -> list[StoredFile]:
    """Store what a finished check left. Slow: call it outside of any transaction."""
    return [storage.put_file(f"{prefix}/{path.name}", path) for path in paths]


def publish(session: Session, *, job_id: int, files: Sequence[StoredFile], made: Findings) -> None:
    """Keep a check's stored files, what they come to, and the pairs of its lists, in the transaction that ends its job."""
    check = session.scalars(select(LabelCheck).where(LabelCheck.job_id == job_id).with_for_update()).one()
    check.files, check.result = tuple(files), made.result
    insert_rows(session, CheckedPair, findings.COLUMNS, made.pairs, job_id=job_id)


def _loaded() -> Select[LabelCheck]:
    job, run = joinedload(LabelCheck.job), joinedload(LabelCheck.run)
    of = run.joinedload(TrainingRun.job)
    return select(LabelCheck).options(
        job.joinedload(Job.project),
        job.joinedload(Job.created_by),
        run.joinedload(TrainingRun.snapshot),
        run.joinedload(TrainingRun.continuation),
        of.joinedload(Job.project),
        of.joinedload(Job.created_by),
    )
