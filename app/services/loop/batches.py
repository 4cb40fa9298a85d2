"""Starting, settling and stopping blind batches: evaluations together with the jobs that make their answers."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from secrets import randbelow

import structlog
from sqlalchemy import Engine, exists, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, settings_of, write_session
from app.errors import Invalid, PrefloopError
from app.models import (
    FINISHED,
    ArmTrialRun,
    AuditEntry,
    Checkpoint,
    Evaluation,
    EvaluationState,
    Job,
    Project,
    Purpose,
    Split,
    TrainingRun,
    User,
)
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.collecting.blind import slots as blind_slots
from app.services.jobs import jobs
from app.services.loop import evaluations, generations
from app.services.loop.evaluating import ballots, choosing, standing
from app.services.loop.evaluating import sides as sides_of
from app.services.loop.evaluating.choosing import Chosen
from app.services.loop.evaluating.sides import PARENT, Sides
from app.services.loop.evaluating.wanted import Wanted
from app.services.loop.generating.wanted import AnswerSource, Sampling

log = structlog.get_logger()

NOT_STARTED = "evaluation.not_started"
MISSED_AFTER = timedelta(minutes=1)  # the worker that made the checkpoint starts it at once, if it lives
MISSED_WITHIN = timedelta(days=1)
MISSED_AT_ONCE = 5

WHY_NOT = {
    "known": "{} are known to everybody who might judge them",
    "trained": "a near duplicate of {} is trained on",
    "alike": "{} are near duplicates of others",
}


@dataclass(frozen=True)
class Drawn:
    """What an evaluation would be of, before anything is fixed."""

    project: Project
    sides: Sides
    chosen: Chosen

    @property
    def sources(self) -> list[AnswerSource]:
        """The checkpoint, then the opponent."""
        opponent = self.sides.opponent
        return [
            AnswerSource.checkpoint(self.sides.checkpoint.id),
            AnswerSource.checkpoint(opponent.id) if opponent else AnswerSource.base(self.sides.model),
        ]


def draw(session: Session, *, checkpoint_id: int, opponent: str, wanted: Wanted, seed: int | None = None) -> Drawn:
    """The sides and prompts of an evaluation. Raises NotFound, and Invalid for what can't be compared."""
    sides = sides_of.resolve(session, checkpoint_id=checkpoint_id, opponent=opponent)
    project = sides.checkpoint.run.job.project
    return Drawn(project, sides, choosing.choose(session, project=project, wanted=wanted, seed=seed))


def start(
    engine: Engine,
    settings: Settings,
    *,
    checkpoint_id: int,
    by_id: int | None,
    opponent: str = PARENT,
    wanted: Wanted | None = None,
    address: str = "",
) -> Evaluation:
    """Draws the prompts, fixes the plan, and queues the job that makes both sides' answers.

    Opens its own sessions: drawing reads, and the models are looked for, before anybody has to wait.
    Raises Invalid (the plan, no prompts, a base model that isn't here), NotFound, Conflict (the same two are compared now).
    """
    seed = randbelow(2**31 - 1)
    wanted = (wanted or Wanted()).checked()
    sampling = replace(Sampling.of(wanted.sampling), seed=seed)
    wanted = replace(wanted, sampling=sampling.stored())
    with read_session(engine) as session:
        drawn = draw(session, checkpoint_id=checkpoint_id, opponent=opponent, wanted=wanted, seed=seed)
    if not drawn.chosen.prompts:
        raise nothing_to_ask(drawn.chosen, wanted)
    generations.require(settings, drawn.sources)
    with write_session(engine) as session:
        session.info["address"] = address
        project = session.get_one(Project, drawn.project.id)
        by = session.get(User, by_id) if by_id else None
        evaluation = evaluations.prepare(
            session, project=project, sides=drawn.sides, wanted=wanted, chosen=drawn.chosen, seed=seed, by=by
        )
        made = generations.start(
            session,
            project=project,
            by=by,
            sources=drawn.sources,
            sampling=sampling,
            purpose=Purpose.EVALUATION,
            evaluation_id=evaluation.id,
        )
        evaluation.job_id = made.job_id
        session.flush()
        return evaluations.get(session, evaluation.id)


def stop(session: Session, *, evaluation: Evaluation, by: User | None) -> Evaluation:
    """Ends an evaluation, and the job that still makes answers for it. Raises Conflict where it has ended otherwise."""
    stopped = evaluations.stop(session, evaluation=evaluation, by=by)
    job = session.get(Job, evaluation.job_id) if evaluation.job_id else None
    if job is not None and job.state not in FINISHED:
        jobs.cancel(session, job=jobs.get(session, job.id), by=by)
    return stopped


def settle_all(engine: Engine, *, now: datetime | None = None) -> list[int]:
    """Settles every evaluation that asks, where something came in; returns those that ended. For the sweeper: a judgment
    never waits for it, and who has the right to write has little to do."""
    now = now or utc_now()
    with read_session(engine) as session:
        asking = session.scalars(select(Evaluation.id).where(Evaluation.state == EvaluationState.ASKING)).all()
    ended = []
    for evaluation_id in asking:
        try:
            ended += [evaluation_id] if _settled(engine, evaluation_id, now) else []
        except Exception as error:  # what keeps one from being settled keeps no other
            log.warning("evaluation.missed", evaluation=evaluation_id, error=str(error))
    blind_slots.withdraw_idle(engine, now=now)
    return ended


def _settled(engine: Engine, evaluation_id: int, now: datetime) -> bool:
    """Whether it ended."""
    with read_session(engine) as session:
        evaluation = evaluations.get(session, evaluation_id)
        if not ballots.close(session, evaluation, now=now) and ballots.is_open(session, evaluation):
            return False
    with write_session(engine) as session:
        evaluations.settle(session, evaluation_id, now=now)
        return evaluations.get(session, evaluation_id).state is not EvaluationState.ASKING


def start_by_itself(engine: Engine, *, checkpoint_id: int) -> Evaluation | None:
    """Compares a run's new checkpoint with its parent, where its project wants that of every run. What keeps it from starting is
    kept in the audit trail: its page offers the same by a button."""
    with read_session(engine) as session:
        row = session.execute(
            select(Project, Job.created_by_id)
            .join(Job, Job.project_id == Project.id)
            .join(TrainingRun, TrainingRun.job_id == Job.id)
            .join(Checkpoint, Checkpoint.job_id == TrainingRun.job_id)
            .where(
                Checkpoint.id == checkpoint_id,
                ~exists().where(Evaluation.checkpoint_id == checkpoint_id),
                ~exists().where(ArmTrialRun.job_id == Job.id),  # it only measures
            )
        ).first()
        if row is None or not row[0].evaluates_runs:
            return None
        wanted = Wanted(prompts=Split.KEPT if standing.kept_prompts(session, project_id=row[0].id) else Split.EVAL)
    try:
        return start(engine, settings_of(engine), checkpoint_id=checkpoint_id, by_id=row[1], wanted=wanted)
    except Exception as reason:
        log.warning("evaluation.not_started", checkpoint=checkpoint_id, reason=str(reason))
        with write_session(engine) as session:
            target = _target(checkpoint_id)
            audit.record(session, by=None, action=NOT_STARTED, target=target, reason=str(reason)[:500])
        if not isinstance(reason, PrefloopError):
            raise
        return None


def start_missed(engine: Engine, *, now: datetime | None = None) -> list[Evaluation]:
    """Starts what a worker that was killed after its run's end should have started: of each new checkpoint of the last day whose project
    compares every run, with no evaluation made and none refused. Once for each, some at a time. For the sweeper."""
    now = now or utc_now()
    since = now - MISSED_WITHIN
    with read_session(engine) as session:
        waiting = session.scalars(
            select(Checkpoint.id)
            .join(Job, Job.id == Checkpoint.job_id)
            .join(Project, Project.id == Job.project_id)
            .where(
                Project.evaluates_runs,
                Project.archived_at.is_(None),
                Checkpoint.created_at.between(since, now - MISSED_AFTER),
                ~exists().where(Evaluation.checkpoint_id == Checkpoint.id),
                ~exists().where(ArmTrialRun.job_id == Job.id),
            )
            .order_by(Checkpoint.id)
        ).all()
        refused = (
            set(
                session.scalars(
                    select(AuditEntry.target).where(AuditEntry.at >= since, AuditEntry.action == NOT_STARTED)
                )
            )
            if waiting
            else set()
        )
    started = []
    for checkpoint_id in [number for number in waiting if _target(number) not in refused][:MISSED_AT_ONCE]:
        try:
            made = start_by_itself(engine, checkpoint_id=checkpoint_id)
            started += [made] if made is not None else []
        except Exception as error:  # kept by start_by_itself; what keeps one from starting keeps no other
            log.warning("evaluation.missed", checkpoint=checkpoint_id, error=str(error))
    return started


def _target(checkpoint_id: int) -> str:
    return f"checkpoint {checkpoint_id}"


@dataclass(frozen=True)
class Evaluate:
    """The wish that a new checkpoint be compared with its parent, if its project wants so."""

    checkpoint_id: int

    def carry_out(self, engine: Engine) -> None:
        start_by_itself(engine, checkpoint_id=self.checkpoint_id)


def nothing_to_ask(chosen: Chosen, wanted: Wanted) -> Invalid:
    """Why no prompt can serve, and what would help."""
    split = "kept for evaluation" if wanted.prompts is Split.KEPT else "of the eval split"
    if not chosen.left_out:
        return Invalid(
            f"The project has no prompts {split}.",
            "Add prompts that are kept for evaluation, on the page of evaluations.",
            field="prompts",
        )
    reasons = "; ".join(why_not(chosen))
    return Invalid(
        f"No prompt {split} can be asked blind: {reasons}.",
        "Add prompts that are kept for evaluation, or invite people who haven't judged these.",
        field="prompts",
    )


def why_not(chosen: Chosen) -> list[str]:
    """Why prompts that were looked at can't serve, with how many those are."""
    return [WHY_NOT[reason].format(f"{count:,}") for reason, count in chosen.left_out.most_common()]
