"""What a trial does: freeze a part of the snapshot for each run and queue it, wait, and compare. Each call does what can be done now.

What it starts is found again by a key of the trial's own, so that two web servers, or a kill in between, start nothing twice.
"""

from collections.abc import Mapping

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.bulk import among
from app.db import read_session, settings_of, write_session
from app.errors import NotAllowed, PrefloopError
from app.models import (
    Arm,
    ArmTrial,
    ArmTrialRun,
    Comparison,
    JobState,
    ProjectRole,
    Split,
    TrainingRun,
    TrialState,
    User,
    Warned,
)
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.datasets import parts, snapshots, without
from app.services.loop import failing
from app.services.loop.generating.arms import WORDS
from app.services.loop.trials import figures, trials
from app.services.loop.trials.plan import Plan, seed_of
from app.services.training import parents, runs
from app.services.training.parents import Parent
from app.storage import Storage

log = structlog.get_logger()


def advance_all(engine: Engine, storage: Storage) -> list[int]:
    """Carries every trial that is under way on as far as it goes now; returns those that moved. For the sweeper."""
    with read_session(engine) as session:
        waiting = trials.active(session)
    moved = []
    for trial_id in waiting:
        try:
            moved += [trial_id] if advance(engine, storage, trial_id) else []
        except Exception as error:  # what keeps one trial from going on keeps no other
            log.warning("trial.missed", trial=trial_id, error=str(error))
    return moved


def advance(engine: Engine, storage: Storage, trial_id: int) -> bool:
    """Carries a trial on until it waits or has ended; whether it moved. What can't be done, or breaks, fails it in words; its
    page offers Retry."""
    with read_session(engine) as session:
        row = trials.get(session, trial_id)
    try:
        if row.state is TrialState.PREPARING:
            return _prepare(engine, storage, row)
        return row.state is TrialState.TRAINING and _compare(engine, storage, row)
    except failing.AWAY:
        raise
    except Exception as error:
        why = failing.told(error, what=f"Its step “{row.state.value}”")
        with write_session(engine) as session:
            return trials.move(session, row, TrialState.FAILED, sources=trials.ACTIVE, problem=why[:1000])


def _prepare(engine: Engine, storage: Storage, row: ArmTrial) -> bool:
    plan = trials.plan_of(row)
    with read_session(engine) as session:
        run = runs.get(session, row.of_job_id)
        run.snapshot.project = run.job.project
        by_id = _starter(session, row).id
        parent = parents.for_parts(session, run=run)
        known = {(one.seed, one.left_out) for one, _ in trials.runs_of(session, trial_id=row.id)}
    trials.require_start(settings_of(engine), run, parent)
    votes, evaluated = _lines(storage, run)
    with read_session(engine) as session:
        asked = select(Comparison.id, Comparison.arm).where(among(session, Comparison.id, [*votes, *evaluated]))
        arms: dict[int, Arm | None] = dict(session.execute(asked).tuples().all())
    others = frozenset(number for number in evaluated if arms.get(number) is not Arm.RANDOM)
    of_arm = {arm: [number for number in votes if arms.get(number) is arm] for arm in plan.left_out}
    count = plan.swapped({arm.value: len(numbers) for arm, numbers in of_arm.items()})
    for place in range(plan.seeds):
        for arm in plan.left_out:
            if (place, arm) in known:
                continue
            with read_session(engine) as session:
                if trials.get(session, row.id).state is not TrialState.PREPARING:
                    return True
            gone = plan.choose(of_arm[arm], count=count, seed=place, arm=arm)
            note = Warned(
                "arm_trial",
                f"A part of snapshot {run.snapshot.number}, made to see what arms bought: without {count:,} pairs of the arm "
                f"“{WORDS[arm]}”, and with eval pairs of the random arm alone. What is said of people and agreement is of "
                f"snapshot {run.snapshot.number}.",
            )
            made = parts.freeze(
                engine,
                snapshot=run.snapshot,
                leaving_out=gone | others,
                arms=arms,
                note=note,
                storage=storage,
                by_id=by_id,
            )
            _queue(
                engine, row, run, parent, made.id, place, arm, votes=sum(votes[number] for number in gone), pairs=count
            )
    with write_session(engine) as session:
        return trials.move(session, row, TrialState.TRAINING, sources=(TrialState.PREPARING,))


def _lines(storage: Storage, run: TrainingRun) -> tuple[Mapping[int, int], list[int]]:
    """The judgments of each train pair of the run's snapshot, and its eval pairs."""
    votes: dict[int, int] = {}
    evaluated: list[int] = []
    for split, line, _ in without.lines_of(storage, run.snapshot):
        number = int(line["comparison_id"])
        if split is Split.EVAL:
            evaluated.append(number)
        else:
            votes[number] = int(line["votes"])
    return votes, evaluated


def _queue(
    engine: Engine,
    row: ArmTrial,
    run: TrainingRun,
    parent: Parent | None,
    snapshot_id: int,
    place: int,
    arm: Arm,
    *,
    votes: int,
    pairs: int,
) -> None:
    with write_session(engine) as session:
        # One at a time in a trial: a stop that came meanwhile cancels what is there, and nothing is queued after it.
        locked = select(ArmTrial).where(ArmTrial.id == row.id, ArmTrial.state == TrialState.PREPARING).with_for_update()
        if session.scalars(locked).first() is None:
            return
        if session.get(ArmTrialRun, (row.id, place, arm)) is not None:
            return
        queued = runs.create(
            session,
            snapshot=snapshots.get(session, snapshot_id),
            base_model=run.base_model,
            config=run.config | {"seed": seed_of(run.config, place)},
            by=session.get_one(User, row.created_by_id),
            parent=parent,
            idempotency_key=f"trial-{row.id}-{place}-{arm.value}",
            note=f"trial {row.number}: without {pairs} pairs of {WORDS[arm]}, seed {place + 1} of {trials.plan_of(row).seeds}",
        )
        session.add(
            ArmTrialRun(
                trial_id=row.id, seed=place, left_out=arm, job_id=queued.job_id, pairs=pairs, judgments=max(votes, 1)
            )
        )
        session.flush()


def _compare(engine: Engine, storage: Storage, row: ArmTrial) -> bool:
    plan: Plan = trials.plan_of(row)
    with read_session(engine) as session:
        made = trials.runs_of(session, trial_id=row.id)
        if len(made) < plan.runs or any(job.state is not JobState.SUCCEEDED for _, job in made):
            return False
        files = figures.files_of(session, trial_id=row.id)
        prompts = figures.prompts_of(session, storage, job_id=made[0][0].job_id)
    if len(files) < plan.runs:
        raise PrefloopError(
            "A run of this trial left no margins of its eval pairs, so it can't be compared.",
            "Start another trial with workers of this version.",
        )
    margins = {key: figures.read(storage, file) for key, (_, file) in files.items()}
    judgments = {key: run.judgments for key, (run, _) in files.items()}
    told = figures.result(plan, prompts, margins, judgments, pairs=made[0][0].pairs)
    with write_session(engine) as session:
        return trials.move(session, row, TrialState.FINISHED, sources=(TrialState.TRAINING,), result=told)


def _starter(session: Session, row: ArmTrial) -> User:
    """Who started the trial, in whose name all of it is done. Raises NotAllowed where they may not any more."""
    user = session.get_one(User, row.created_by_id)
    place = access.find(session, caller=Caller.of(user), of="slug", value=row.project.slug) if user.active else None
    if place is None or not place[1].covers(ProjectRole.ENGINEER):
        raise NotAllowed(
            f"{user.display_name}, who started this trial, isn't an engineer of the project any more.",
            "Start one yourself.",
        )
    return user
