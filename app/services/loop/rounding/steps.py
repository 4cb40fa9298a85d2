"""What a round does at each of its steps. Nothing is held while it waits: each call looks once, and does what can be done now.

Whatever a step starts is found again by a key of the round's own, so that two web servers, or a kill in between, start nothing twice.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import read_session, settings_of, write_session
from app.errors import Conflict, NotAllowed, NotFound
from app.models import Checkpoint, JobState, Project, ProjectRole, Split, User
from app.models.evaluation import EvaluationState
from app.models.round import Round, RoundState, RoundStep
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.collecting import counts
from app.services.datasets import snapshots
from app.services.jobs import jobs
from app.services.loop import batches, evaluations, failing, generations
from app.services.loop.evaluating import ballots, sides, standing
from app.services.loop.evaluating.sides import BASE, PARENT
from app.services.loop.generating import margins, prompts
from app.services.loop.rounding import rounds
from app.services.loop.rounding.plan import RoundPlan
from app.services.training import checkpoints, parents, runs
from app.services.training.parents import Parent
from app.storage import Storage

log = structlog.get_logger()
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


def require(engine: Engine, plan: RoundPlan, *, project: Project, caller: Caller | None = None) -> None:
    """Raises Invalid for a plan whose models aren't here, whose run can't start from its checkpoint, or whose arms have nothing to go
    by, and NotFound for a checkpoint to start from, or an opponent, that isn't there or isn't for the caller. It reads files: not within
    a write transaction."""
    settings = settings_of(engine)
    with read_session(engine) as session:
        if caller is not None and plan.from_checkpoint is not None:
            _may_start_from(session, caller, plan.from_checkpoint)
        if plan.opponent not in ("", PARENT, BASE):
            sides.numbered(session, project_id=project.id, number=int(plan.opponent))
        parent = _parent(session, plan)
    runs.require(settings, base_model=plan.base_model, config=plan.run_config(), parent=parent)
    generations.require(settings, plan.answer_sources())
    margins.require(engine, settings, project=project, arms=plan.choosing())


def _parent(session: Session, plan: RoundPlan) -> Parent | None:
    return parents.find(session, plan.from_checkpoint) if plan.from_checkpoint is not None else None


def _may_start_from(session: Session, caller: Caller, checkpoint_id: int) -> None:
    place = access.find(session, caller=caller, of="checkpoint_id", value=checkpoint_id)
    if place is None or not place[1].covers(ProjectRole.ENGINEER):
        raise NotFound(
            f"There is no checkpoint {checkpoint_id}.", "Look at the list of checkpoints.", field="from_checkpoint"
        )


def advance_all(engine: Engine, storage: Storage) -> list[int]:
    """Carries every running round on as far as it goes now; returns those that moved. For the sweeper."""
    with read_session(engine) as session:
        waiting = rounds.running(session)
    moved = []
    for round_id in waiting:
        try:
            moved += [round_id] if advance(engine, storage, round_id) else []
        except Exception as error:  # what keeps one round from going on keeps no other
            log.warning("round.missed", round=round_id, error=str(error))
    return moved


def advance(engine: Engine, storage: Storage, round_id: int, *, now: datetime | None = None) -> bool:
    """Carries a round on until it waits or has ended; whether it moved. What can't be done, or goes wrong in a way that nobody
    thought of, fails the round in words: its page offers Retry. Where the database is away there is nowhere to say so, and the next
    look tries again."""
    moved = False
    while True:
        with read_session(engine) as session:
            row = rounds.get(session, round_id)
        if row.state is not RoundState.RUNNING:
            return moved
        try:
            if not DOES[row.step](engine, storage, row, now):
                return moved
        except failing.AWAY:
            raise
        except Exception as error:
            why = failing.told(error, what=f"Its step “{row.step.value}”")
            with write_session(engine) as session:
                rounds.fail(session, row, why, now=now)
            return True
        moved = True


def _answers(engine: Engine, _storage: Storage, row: Round, now: datetime | None) -> bool:
    plan = rounds.plan_of(row)
    if row.generation_job_id is None:
        with read_session(engine) as session:
            chosen = prompts.choose(session, project=row.project, rule=plan.rule(row.number))
        generations.require(settings_of(engine), plan.answer_sources())
        margins.require(engine, settings_of(engine), project=row.project, arms=plan.choosing())
        with write_session(engine) as session:
            made = generations.start(
                session,
                project=row.project,
                by=_starter(session, row),
                sources=plan.answer_sources(),
                sampling=plan.drawing(),
                prompts=chosen,
                rule=plan.rule(row.number),
                samples=plan.samples,
                pairing=plan.pairing,
                arms=plan.choosing(),
                idempotency_key=f"round-{row.id}-answers",
                now=now,
            )
            return rounds.step_on(
                session, row, source=row.step, to=RoundStep.ANSWERS, generation_job_id=made.job_id, now=now
            )
    if not _is_done(engine, row, row.generation_job_id, "its answers", now):
        return False
    with write_session(engine) as session:
        judged = counts.figures(session, project_id=row.project_id).judgments
        return rounds.step_on(session, row, source=row.step, to=RoundStep.JUDGMENTS, judged_before=judged, now=now)


def _judgments(engine: Engine, _storage: Storage, row: Round, now: datetime | None) -> bool:
    with read_session(engine) as session:
        if waits_for(session, row):
            return False
    with write_session(engine) as session:
        return rounds.step_on(session, row, source=row.step, to=RoundStep.SNAPSHOT, now=now)


def waits_for(session: Session, row: Round) -> int:
    """How many judgments, or pairs to be judged, a round still waits for. Those of blind batches train nothing and don't count."""
    wanted = rounds.plan_of(row).judgments
    figures = counts.figures(session, project_id=row.project_id)
    if wanted is None:
        return max(0, figures.comparisons - figures.judged)
    blind = ballots.cast_since(session, project_id=row.project_id, since=row.changed_at)
    return max(0, wanted - (figures.judgments - row.judged_before - blind))


def _snapshot(engine: Engine, storage: Storage, row: Round, now: datetime | None) -> bool:
    plan = rounds.plan_of(row)
    with read_session(engine) as session:
        by_id, parent = _starter(session, row).id, _parent(session, plan)
    rule = runs.rule_for(None, parent=parent, new_pairs_only=plan.new_pairs_only)
    frozen = snapshots.freeze(engine, project=row.project, by_id=by_id, storage=storage, rule=rule, now=now)
    with write_session(engine) as session:
        return rounds.step_on(session, row, source=row.step, to=RoundStep.TRAINING, snapshot_id=frozen.id, now=now)


def _training(engine: Engine, _storage: Storage, row: Round, now: datetime | None) -> bool:
    plan = rounds.plan_of(row)
    if row.training_job_id is None:
        with read_session(engine) as session:
            parent = _parent(session, plan)
        runs.require(settings_of(engine), base_model=plan.base_model, config=plan.run_config(), parent=parent)
        with write_session(engine) as session:
            run = runs.create(
                session,
                snapshot=snapshots.get(session, row.snapshot_id or 0),
                base_model=plan.base_model,
                config=plan.run_config(),
                by=_starter(session, row),
                parent=parent,
                idempotency_key=f"round-{row.id}-run",
                note=f"round {row.number}",
                now=now,
            )
            return rounds.step_on(
                session, row, source=row.step, to=RoundStep.TRAINING, training_job_id=run.job_id, now=now
            )
    if not _is_done(engine, row, row.training_job_id, "its run", now):
        return False
    with write_session(engine) as session:
        checkpoint_id = session.scalars(
            select(Checkpoint.id)
            .where(Checkpoint.job_id == row.training_job_id)
            .order_by(Checkpoint.id.desc())
            .limit(1)
        ).one()
        if not plan.opponent:
            rounds.step_on(session, row, source=row.step, to=RoundStep.VERDICT, checkpoint_id=checkpoint_id, now=now)
            return rounds.finish(session, row, now=now)
        return rounds.step_on(
            session, row, source=row.step, to=RoundStep.EVALUATION, checkpoint_id=checkpoint_id, now=now
        )


def _evaluation(engine: Engine, _storage: Storage, row: Round, now: datetime | None) -> bool:
    plan = rounds.plan_of(row)
    if row.evaluation_id is None:
        evaluation_id = _evaluation_of(engine, row, plan)
        with write_session(engine) as session:
            return rounds.step_on(
                session, row, source=row.step, to=RoundStep.EVALUATION, evaluation_id=evaluation_id, now=now
            )
    with read_session(engine) as session:
        evaluation = evaluations.get(session, row.evaluation_id)
    if evaluation.state is EvaluationState.PREPARING and evaluation.job_id:
        _is_done(engine, row, evaluation.job_id, "the answers of its evaluation", now)
        return False
    if evaluation.state in (EvaluationState.PREPARING, EvaluationState.ASKING):
        return False
    with write_session(engine) as session:
        return rounds.finish(session, row, now=now)


def _evaluation_of(engine: Engine, row: Round, plan: RoundPlan) -> int:
    """The evaluation of a round's checkpoint: the one that is there already, of an attempt that was killed or of a project that
    compares every run by itself, or a new one."""
    with read_session(engine) as session:
        by_id = _starter(session, row).id
        checkpoint = checkpoints.get(session, row.checkpoint_id or 0)
        there = evaluations.listing(session, project=row.project, checkpoint=checkpoint, size=1).items
        kept = standing.kept_prompts(session, project_id=row.project_id)
    if there:
        return there[0].id
    wanted = plan.evaluation_wanted()
    if kept and "prompts" not in plan.evaluation:
        wanted = replace(wanted, prompts=Split.KEPT)
    try:
        started = batches.start(
            engine,
            settings_of(engine),
            checkpoint_id=checkpoint.id,
            opponent=plan.opponent,
            wanted=wanted,
            by_id=by_id,
        )
    except Conflict:  # another web server was first
        with read_session(engine) as session:
            there = evaluations.listing(session, project=row.project, checkpoint=checkpoint, size=1).items
        if not there:
            raise
        return there[0].id
    return started.id


def _verdict(engine: Engine, _storage: Storage, row: Round, now: datetime | None) -> bool:
    with write_session(engine) as session:
        return rounds.finish(session, row, now=now)


def _is_done(engine: Engine, row: Round, job_id: int, what: str, now: datetime | None) -> bool:
    """Whether a round's job has succeeded. One that failed or was cancelled fails the round."""
    with read_session(engine) as session:
        job = jobs.get(session, job_id)
    if job.state in ENDED_BADLY:
        why = job.error or f"It was {job.state.value}."
        with write_session(engine) as session:
            rounds.fail(session, row, f"Job {job.id}, which makes {what}, {job.state.value}. {why}", now=now)
    return job.state is JobState.SUCCEEDED


def _starter(session: Session, row: Round) -> User:
    """Who started the round, in whose name all of it is done. Raises NotAllowed where they may not any more."""
    user = session.get_one(User, row.created_by_id)
    place = access.find(session, caller=Caller.of(user), of="slug", value=row.project.slug) if user.active else None
    if place is None or not place[1].covers(ProjectRole.ENGINEER):
        raise NotAllowed(
            f"{user.display_name}, who started this round, isn't an engineer of the project any more.",
            "Stop the round and start one yourself.",
        )
    return user


DOES: dict[RoundStep, Callable[[Engine, Storage, Round, datetime | None], bool]] = {
    RoundStep.ANSWERS: _answers,
    RoundStep.JUDGMENTS: _judgments,
    RoundStep.SNAPSHOT: _snapshot,
    RoundStep.TRAINING: _training,
    RoundStep.EVALUATION: _evaluation,
    RoundStep.VERDICT: _verdict,
}
