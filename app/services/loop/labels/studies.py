"""Whose preferences a run learned, on request: the same run again without each of some people's votes, over one seed or several.

Each is a training run like any other, on the run's snapshot without that person's votes in its training pairs; the eval pairs stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import read_session, settings_of, write_session
from app.errors import Conflict, Invalid
from app.models import Checkpoint, Evaluator, Job, JobState, PersonRun, PersonStudy, Snapshot, TrainingRun, User
from app.services.accounts import audit
from app.services.datasets import without
from app.services.loop import retraining
from app.services.loop.labels.cost import Cost
from app.services.training import estimates, parents, runs
from app.services.training.parents import Parent
from app.storage import Storage

MARGINS = "eval_margins.json"  # a checkpoint's file with each eval pair's margin
MOST_PEOPLE, MOST_SEEDS, MOST_OF_A_RUN = 10, 5, 20
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom to leave out, each alone, and with how many seeds each run is made."""

    people: tuple[int, ...]
    seeds: int = 1

    def checked(self) -> "Wanted":
        """Raises Invalid."""
        people = tuple(dict.fromkeys(self.people))
        if not 1 <= len(people) <= MOST_PEOPLE:
            raise Invalid(
                "Whose votes are to be left out?", f"Choose one to {MOST_PEOPLE} people, each alone.", field="people"
            )
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise Invalid(f"{self.seeds} seeds: choose 1 to {MOST_SEEDS}.", "3 show more than 1.", field="seeds")
        return Wanted(people, self.seeds)


def people(run: TrainingRun) -> list[Evaluator]:
    """Who voted in a run's snapshot, most votes first."""
    return sorted(run.snapshot.statistics.evaluators, key=lambda one: -one.judgments)


def cost(session: Session, *, run: TrainingRun, wanted: Wanted) -> Cost:
    """One run for each person and one with everybody, for each seed; runs that are there already are counted too."""
    pairs = runs.train_pairs(run.snapshot)
    told = estimates.estimate(session, base_model=run.base_model, config=run.config, pairs=pairs)
    count = (len(wanted.people) + 1) * wanted.seeds
    return Cost(count, pairs, None if told.seconds is None else told.seconds * count, told.runs)


def require(session: Session, *, run: TrainingRun, wanted: Wanted) -> Wanted:
    """What can be begun. Raises Conflict for a run that it can't be asked of, Invalid for whom and how often."""
    wanted = wanted.checked()
    if run.job.state is not JobState.SUCCEEDED:
        raise Conflict(f"Run {run.job_id} is {run.job.state.value}.", "Ask it of a run that succeeded.")
    if run.snapshot.counts.eval < 2:
        raise Conflict(
            f"Snapshot {run.snapshot.number} has no eval pairs to compare runs on.",
            "Set the project's share of eval prompts, and freeze again.",
        )
    voted = {one.user_id for one in run.snapshot.statistics.evaluators}
    if unknown := [number for number in wanted.people if number not in voted]:
        raise Invalid(
            f"Snapshot {run.snapshot.number} has no vote of user {unknown[0]}.",
            "Choose people who voted in it.",
            field="people",
        )
    parents.for_parts(session, run=run)
    return wanted


def begin(
    engine: Engine, *, job_id: int, wanted: Wanted, by_id: int, storage: Storage, address: str = ""
) -> PersonStudy:
    """Freeze what each person's absence leaves, and queue the runs. Opens its own sessions.

    The same wish again finds the study that is there. Raises what `require` and `without.freeze` raise.
    """
    with read_session(engine) as session:
        run = runs.get(session, job_id)
        wanted = require(session, run=run, wanted=wanted)
        parent = parents.for_parts(session, run=run)
        snapshot = session.get_one(Snapshot, run.snapshot_id)
        snapshot.project = run.job.project
        checkpoint = session.scalar(
            select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id).limit(1)
        )
        config = retraining.settings_again(run, checkpoint)
    runs.require(settings_of(engine), base_model=run.base_model, config=config, parent=parent)
    first = int(config.get("seed", 42))
    seeds = [(first + number) % 2**31 for number in range(wanted.seeds)]
    frozen: dict[int | None, tuple[int, int]] = {None: (snapshot.id, 0)}
    for person in wanted.people:
        made, told = without.freeze(
            engine, snapshot=snapshot, by_id=by_id, storage=storage, address=address, person_id=person
        )
        frozen[person] = (made.id, told.left_out + told.anew)
    with write_session(engine) as session:
        session.info["address"] = address
        # One at a time for a run: a double click finds the first click's study.
        session.execute(select(TrainingRun.job_id).where(TrainingRun.job_id == job_id).with_for_update())
        if (known := _known(session, job_id, wanted, seeds)) is not None:
            return known
        by = session.get_one(User, by_id)
        study = PersonStudy(of_job_id=job_id, people=list(wanted.people), seeds=seeds, created_by_id=by_id)
        session.add(study)
        session.flush()
        for seed in seeds:
            for who, (snapshot_id, pairs) in frozen.items():
                there = _run_of(session, job_id, who, seed)
                made_by = there or _queue(session, run, parent, snapshot_id, config | {"seed": seed}, by, who, pairs)
                session.add(PersonRun(study_id=study.id, job_id=made_by, user_id=who, seed=seed, pairs=pairs))
        session.flush()
        audit.record(
            session, by=by, action="run.study_people", target=f"job {job_id}", people=list(wanted.people), seeds=seeds
        )
        return study


def of_run(session: Session, *, job_id: int) -> list[PersonStudy]:
    """A run's studies, the newest first."""
    rows = select(PersonStudy).where(PersonStudy.of_job_id == job_id).order_by(PersonStudy.id.desc())
    return list(session.scalars(rows.limit(MOST_OF_A_RUN)))


def progress(session: Session, *, study_ids: Sequence[int]) -> dict[int, list[tuple[PersonRun, JobState]]]:
    """The runs of each study, and how each stands."""
    rows = session.execute(
        select(PersonRun, Job.state)
        .join(Job, Job.id == PersonRun.job_id)
        .where(PersonRun.study_id.in_(study_ids))
        .order_by(PersonRun.id)
    ).tuples()
    told: dict[int, list[tuple[PersonRun, JobState]]] = {number: [] for number in study_ids}
    for row, state in rows:
        told[row.study_id].append((row, state))
    return told


def _known(session: Session, job_id: int, wanted: Wanted, seeds: list[int]) -> PersonStudy | None:
    for study in of_run(session, job_id=job_id):
        if sorted(study.people) == sorted(wanted.people) and study.seeds == seeds:
            return study
    return None


def _run_of(session: Session, of_job_id: int, person: int | None, seed: int) -> int | None:
    """The run that an earlier study of this run made of the same, unless it failed."""
    return session.scalar(
        select(PersonRun.job_id)
        .join(PersonStudy, PersonStudy.id == PersonRun.study_id)
        .join(Job, Job.id == PersonRun.job_id)
        .where(
            PersonStudy.of_job_id == of_job_id,
            PersonRun.user_id.is_(None) if person is None else PersonRun.user_id == person,
            PersonRun.seed == seed,
            Job.state.not_in(ENDED_BADLY),
        )
        .limit(1)
    )


def _queue(
    session: Session,
    run: TrainingRun,
    parent: Parent | None,
    snapshot_id: int,
    config: dict[str, Any],
    by: User,
    person: int | None,
    pairs: int,
) -> int:
    which = "with everybody's votes" if person is None else f"without one person's votes, {pairs:,} pairs"
    made = runs.create(
        session,
        snapshot=session.get_one(Snapshot, snapshot_id),
        base_model=run.base_model,
        config=config,
        by=by,
        parent=parent,
        note=f"Run {run.job_id} again {which}",
    )
    return made.job_id
