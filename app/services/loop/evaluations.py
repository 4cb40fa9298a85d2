"""Evaluations: blind batches from their plan to their end, and the only code that writes their state.

A batch is prepared (`plan`, then a job makes both sides' answers), seeded by the end of that job, asked between ordinary pairs
(`collecting.blind`), and ends when its goal is reached, by a person, or void. Its parts are in `evaluating/`.
"""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, joinedload

from app import paging
from app.errors import Conflict, NotFound
from app.models import (
    EVALUATION_TRANSITIONS,
    Checkpoint,
    Evaluation,
    EvaluationPair,
    EvaluationState,
    Project,
    Prompt,
    TrainingRun,
    User,
)
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.collecting import counts
from app.services.collecting.blind import slots as blind_slots
from app.services.loop.evaluating import ballots, seeding
from app.services.loop.evaluating import sides as sides_of
from app.services.loop.evaluating import wanted as plans
from app.services.loop.evaluating.ballots import Closing, Vote
from app.services.loop.evaluating.choosing import Chosen
from app.services.loop.evaluating.sides import ACTIVE, Sides
from app.services.loop.evaluating.wanted import CONFIDENCE, Wanted
from app.stats.loop import decision
from app.stats.loop.decision import Decision, Plan
from app.stats.loop.estimate import Outcomes


def get(session: Session, evaluation_id: int) -> Evaluation:
    """With its project, and both sides' checkpoints with run and job. Raises NotFound."""
    row = (
        session.scalars(_loaded().where(Evaluation.id == evaluation_id)).first() if 0 < evaluation_id < 2**31 else None
    )
    if row is None:
        raise NotFound(f"There is no evaluation {evaluation_id}.", "Look at the project's evaluations.")
    return row


def listing(
    session: Session, *, project: Project, checkpoint: Checkpoint | None = None, page: int = 1, size: int = 50
) -> paging.Page[Evaluation]:
    """A project's evaluations, or those in which a checkpoint is the new side, the newest first."""
    query = _loaded().where(Evaluation.project_id == project.id).order_by(Evaluation.id.desc())
    if checkpoint is not None:
        query = query.where(Evaluation.checkpoint_id == checkpoint.id)
    return paging.fetch(session, query, page=page, size=size)


def prepare(
    session: Session,
    *,
    project: Project,
    sides: Sides,
    wanted: Wanted,
    chosen: Chosen,
    seed: int,
    by: User | None,
    now: datetime | None = None,
) -> Evaluation:
    """The plan of an evaluation with its prompts in the drawn order, fixed and hashed; its answers are to be made.

    Raises Conflict where the same sides are compared already.
    """
    now = now or utc_now()
    # One at a time in a project: numbers have no gaps, and a double click finds the first click's evaluation.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    sides_of.refuse_twice(session, sides)
    last = session.scalar(select(func.max(Evaluation.number)).where(Evaluation.project_id == project.id)) or 0
    evaluation = Evaluation(
        project_id=project.id,
        number=last + 1,
        checkpoint_id=sides.checkpoint.id,
        opponent_id=sides.opponent.id if sides.opponent else None,
        opponent_model=sides.model,
        goal=wanted.goal.value,
        margin=wanted.margin,
        maximum=wanted.maximum,
        confidence=CONFIDENCE,
        votes=wanted.votes,
        both_bad=wanted.both_bad.value,
        skips=wanted.skips.value,
        prompts={"of": wanted.prompts.value, "count": len(chosen.prompts), "left_out": dict(chosen.left_out)},
        sampling=dict(wanted.sampling) | {"seed": seed},
        share=wanted.share,
        seed=seed,
        plan_sha256="",
        created_by_id=by.id if by else None,
        created_at=now,
    )
    evaluation.plan_sha256 = plans.fingerprint(
        evaluation, prompts=[content_hash for _, content_hash in chosen.prompts], identities=sides.identities
    )
    session.add(evaluation)
    session.flush()
    session.add_all(
        EvaluationPair(evaluation_id=evaluation.id, place=place, prompt_id=prompt_id)
        for place, (prompt_id, _) in enumerate(chosen.prompts, 1)
    )
    session.flush()
    audit.record(
        session,
        by=by,
        action="evaluation.create",
        target=f"evaluation {evaluation.id}",
        project=project.slug,
        checkpoint=sides.checkpoint.id,
        opponent=sides.opponent.id if sides.opponent else sides.model,
        plan_sha256=evaluation.plan_sha256,
    )
    return evaluation


def is_as_planned(session: Session, evaluation: Evaluation) -> bool:
    """Whether the plan, and the order of its prompts, still are what was hashed before the first judgment."""
    prompts = session.scalars(
        select(Prompt.content_hash)
        .join(EvaluationPair, EvaluationPair.prompt_id == Prompt.id)
        .where(EvaluationPair.evaluation_id == evaluation.id)
        .order_by(EvaluationPair.place)
    ).all()
    sides = Sides.of(evaluation)
    return evaluation.plan_sha256 == plans.fingerprint(evaluation, prompts=prompts, identities=sides.identities)


def seed(session: Session, *, evaluation_id: int, now: datetime | None = None) -> Evaluation:
    """Makes pairs of the answers that arrived, and begins to ask: in the transaction that ends the job which made them. An
    evaluation that was stopped meanwhile stays so."""
    now = now or utc_now()
    evaluation = get(session, evaluation_id)
    session.execute(select(Evaluation.id).where(Evaluation.id == evaluation_id).with_for_update(key_share=True))
    session.refresh(evaluation, ["state"])
    if evaluation.state is not EvaluationState.PREPARING:
        return evaluation
    seeded = seeding.seed(session, evaluation, now=now)
    if not seeded["asked"] and not seeded["same"]:
        _void(session, evaluation, f"No prompt came to two answers that can be compared ({_told(seeded)}).", now=now)
    else:
        _move(session, evaluation, EvaluationState.ASKING, now=now, asking_at=now)
    return evaluation


def votes(session: Session, evaluation: Evaluation) -> list[Vote]:
    """Every vote of an evaluation, in one statement."""
    return ballots.votes(session, evaluation)


def outcomes(session: Session, evaluation: Evaluation) -> Outcomes:
    """How often each win rate of a prompt came up by now: what the decision rests on."""
    return ballots.outcomes(ballots.counting(session, evaluation))


def plan_of(session: Session, evaluation: Evaluation) -> Plan:
    """As the statistics know it, its maximum being the prompts that can count."""
    return ballots.plan(evaluation, len(ballots.counting(session, evaluation)))


def settle(session: Session, evaluation_id: int, *, now: datetime | None = None) -> Decision | None:
    """Counts the prompts that have all their votes, and ends the evaluation where its plan says so. None: nothing to do."""
    now = now or utc_now()
    evaluation = get(session, evaluation_id)
    if evaluation.state is not EvaluationState.ASKING:
        return None
    return _apply(session, evaluation, ballots.close(session, evaluation, now=now), now)


def stop(session: Session, *, evaluation: Evaluation, by: User | None, now: datetime | None = None) -> Evaluation:
    """Ends an evaluation that is prepared or asks; what was judged is kept. Asking again changes nothing. The caller cancels the job.

    Raises Conflict where it is decided or void.
    """
    now = now or utc_now()
    reason = f"{by.display_name if by else 'Somebody'} stopped it."
    for _ in range(2):  # it may begin to ask between the two looks
        if evaluation.state is EvaluationState.STOPPED:
            return evaluation
        if evaluation.state not in ACTIVE:
            raise Conflict(f"Evaluation {evaluation.number} is {evaluation.state.value}.", "There is nothing to stop.")
        if _move(session, evaluation, EvaluationState.STOPPED, by=by, now=now, reason=reason):
            break
    return evaluation


def _apply(session: Session, evaluation: Evaluation, closing: Closing, now: datetime) -> Decision | None:
    for column, told in ((EvaluationPair.value, closing.values), (EvaluationPair.left_out, closing.left_out)):
        for pair_id, value in told.items():
            row = update(EvaluationPair).where(EvaluationPair.id == pair_id, EvaluationPair.left_out == "")
            if column is EvaluationPair.value:
                row = row.where(EvaluationPair.value.is_(None))
            session.execute(row.values({column: value}), execution_options={"synchronize_session": False})
    if closing.comparisons:
        blind_slots.withdraw(
            session,
            project_id=evaluation.project_id,
            evaluation_id=evaluation.id,
            now=now,
            comparison_ids=closing.comparisons,
        )
    counting = ballots.counting(session, evaluation)
    if not counting:
        _void(session, evaluation, "Every prompt was left out.", now=now)
        return None
    decided = decision.decide(ballots.plan(evaluation, len(counting)), ballots.outcomes(counting))
    if decided.stop is not None:
        word, why = decided.word.value, decided.stop.value
        _move(session, evaluation, EvaluationState.DECIDED, now=now, word=word, stop=why)
    return decided


def _void(session: Session, evaluation: Evaluation, reason: str, *, now: datetime) -> None:
    _move(session, evaluation, EvaluationState.VOID, now=now, reason=reason[:500], word="")


def _move(
    session: Session,
    evaluation: Evaluation,
    to: EvaluationState,
    *,
    now: datetime,
    by: User | None = None,
    **values: Any,
) -> bool:
    """The compare-and-set with its audit entry: True if the evaluation was in the state in which it was read. What still is open
    goes away with the end."""
    source = evaluation.state
    if to not in EVALUATION_TRANSITIONS[source]:
        raise ValueError(f"no evaluation goes from {source} to {to}")
    ends = to is not EvaluationState.ASKING
    values |= {"ended_at": now} if ends else {}
    statement = update(Evaluation).where(Evaluation.id == evaluation.id, Evaluation.state == source)
    result: Any = session.execute(statement.values(state=to, **values).execution_options(synchronize_session=False))
    session.refresh(evaluation, ["state", *values])
    if result.rowcount != 1:
        return False
    counts.note(
        session,
        project_id=evaluation.project_id,
        asking=(to is EvaluationState.ASKING) - (source is EvaluationState.ASKING),
    )
    if ends and source is EvaluationState.ASKING:
        blind_slots.withdraw(session, project_id=evaluation.project_id, evaluation_id=evaluation.id, now=now)
    audit.record(
        session,
        by=by,
        action=f"evaluation.{to.value}",
        target=f"evaluation {evaluation.id}",
        **{name: value for name, value in values.items() if isinstance(value, str)},
    )
    return True


def _told(seeded: Counter[str]) -> str:
    words = {"failed": "{} without an answer", "there": "{} asked before"}
    return ", ".join(text.format(seeded[key]) for key, text in words.items() if seeded[key]) or "no prompts"


def _loaded() -> Select[Evaluation]:
    """With what pages show: project, and both checkpoints with run and job."""
    new = joinedload(Evaluation.checkpoint).joinedload(Checkpoint.run).joinedload(TrainingRun.job)
    old = joinedload(Evaluation.opponent).joinedload(Checkpoint.run).joinedload(TrainingRun.job)
    return select(Evaluation).options(joinedload(Evaluation.project), new, old)
