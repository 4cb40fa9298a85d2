"""Generations: a job that asks sources for answers to prompts, keeps each as it arrives, and makes pairs of them by rule.

Answers, pairs, prompts and cost are in `generating/`; this module starts a generation and finds it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session, defer, joinedload

from app import paging
from app.config import Settings
from app.db import read_session, settings_of, write_session
from app.errors import Invalid, NotFound
from app.models import (
    Checkpoint,
    GenerationPlan,
    Job,
    JobKind,
    JobState,
    Pairing,
    Project,
    Purpose,
    TrainingRun,
    User,
)
from app.services.jobs import jobs
from app.services.loop import endpoints
from app.services.loop.generating import cost, margins, wanted
from app.services.loop.generating import prompts as prompts_of
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.cost import Cost
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import AnswerKind, AnswerSource, Sampling
from app.services.training import base_models, runs

LOOKED_AT = 200  # prompts of which the length is looked at


def require(settings: Settings, sources: Sequence[AnswerSource]) -> None:
    """Raises Invalid unless the base models among the sources are here. It reads files: not within a write transaction."""
    for source in sources:
        if source.kind is AnswerKind.BASE:
            try:
                runs.require_model(settings, source.name)
            except Invalid as problem:
                raise Invalid(problem.what, problem.next_step, field="sources") from None


@dataclass(frozen=True, slots=True)
class Order:
    """A generation as somebody asks for it. `given`: prompts that they bring; without them `rule` says which of the project's."""

    sources: Sequence[AnswerSource]
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    pairing: Pairing = Pairing.ACROSS
    rule: Rule = field(default_factory=Rule)
    given: Sequence[object] = ()
    arms: Arms = field(default_factory=Arms)


def begin(
    engine: Engine,
    *,
    project: Project,
    by_id: int,
    order: Order,
    idempotency_key: str | None = None,
    address: str = "",
) -> GenerationPlan:
    """Store the prompts that were given, and queue a generation. A double click with one key makes one.

    Opens its own sessions: files are read before them, and prompts are stored some at a time. Raises what `start`,
    `require` and the choice of prompts raise.
    """
    settings = settings_of(engine)
    with read_session(engine) as session:
        if known := _by_key(session, project, by_id, order, idempotency_key):
            return known
    given = prompts_of.read_given(order.given)
    likely = len(given) or 1  # the rest is checked before prompts are stored that nobody wanted
    asked = {"sources": order.sources, "samples": order.samples, "sampling": order.sampling, "pairing": order.pairing}
    asked["arms"] = order.arms
    wanted.check(prompts=likely, **asked)  # type: ignore[arg-type]
    require(settings, order.sources)
    with read_session(engine) as session:
        for source in order.sources:
            _known(session, project, source)
    margins.require(engine, settings, project=project, arms=order.arms)
    ids = prompts_of.store(engine, project_id=project.id, given=given) if given else []
    with write_session(engine) as session:
        session.info["address"] = address
        ids = prompts_of.without_kept(session, ids=ids)
        return start(
            session,
            project=session.get_one(Project, project.id),
            by=session.get_one(User, by_id),
            prompts=ids if given else prompts_of.choose(session, project=project, rule=order.rule),
            rule=None if given else order.rule,
            idempotency_key=idempotency_key,
            **asked,  # type: ignore[arg-type]
        )


def _by_key(session: Session, project: Project, by_id: int, order: Order, key: str | None) -> GenerationPlan | None:
    """What this key made, though the project may have other prompts by now. Raises Conflict if it was asked for otherwise."""
    job = jobs.by_key(session, kind=JobKind.GENERATION, by=session.get_one(User, by_id), key=key)
    if job is None:
        return None
    plan = get(session, job.id)
    asked = [source.key for source in order.sources], order.samples, order.sampling.stored(), order.pairing
    is_like = Arms.stored_as(plan.arms).is_like(order.arms)
    if job.project_id != project.id or not is_like or asked != (
        [source.key for source in sources(plan)], plan.samples, plan.sampling, plan.pairing,
    ):  # fmt: skip
        raise jobs.key_used(job)
    return plan


def estimate(session: Session, *, project: Project, order: Order) -> Cost:
    """What an order will take, before it is given. Raises Invalid and NotFound, as `start` would."""
    given = prompts_of.read_given(order.given)
    ids = [] if given else prompts_of.choose(session, project=project, rule=order.rule)
    count = len(given) or len(ids)
    wanted.check(
        sources=order.sources,
        prompts=count,
        samples=order.samples,
        sampling=order.sampling.checked(),
        pairing=order.pairing,
        arms=order.arms,
    )
    margins_of = margins.checkpoint_of(session, project=project, arms=order.arms)
    looked_at = given[:LOOKED_AT] or list(prompts_of.messages_of(session, ids=ids[:LOOKED_AT]).values())
    signs = sum(len(message["content"]) for messages in looked_at for message in messages) / max(1, len(looked_at))
    return cost.estimate(
        sources=[_known(session, project, source) for source in order.sources],
        prompts=count,
        prompt_signs=signs,
        samples=order.samples,
        sampling=order.sampling,
        earlier=latest(session, project=project),
        choice=order.arms.sentences(margins_of),
    )


def start(
    session: Session,
    *,
    project: Project,
    by: User | None,
    sources: Sequence[AnswerSource],
    sampling: Sampling,
    prompts: Sequence[int] = (),
    rule: Rule | None = None,
    samples: int = 1,
    pairing: Pairing = Pairing.ACROSS,
    arms: Arms | None = None,
    purpose: Purpose = Purpose.COLLECTION,
    evaluation_id: int | None = None,
    idempotency_key: str | None = None,
    now: datetime | None = None,
) -> GenerationPlan:
    """Queue a generation. The same key from the same person returns the one that it made before.

    prompts: ids in the order in which they are asked; `rule` says how they were chosen. With the purpose of an evaluation
    source 0 is its checkpoint and source 1 the opponent, the prompts are those of its pairs by place, each source gives
    one answer to each with the same sampling and seed, and no pairs are made: the end of the job calls `evaluations.seed`.
    The caller asks `require` and `margins.require` before the transaction. Raises Invalid, NotFound (a checkpoint), Conflict (the
    key).
    """
    arms = arms or Arms()
    if purpose is Purpose.EVALUATION:
        if evaluation_id is None or len(sources) != 2:
            raise ValueError("an evaluation's answers come from its checkpoint and its opponent")
        prompts, rule = prompts_of.of_evaluation(session, evaluation_id=evaluation_id), None
        samples, pairing, chosen_from = 1, Pairing.NONE, From.EVALUATION
    else:
        chosen_from = rule.of if rule else From.GIVEN
    wanted.check(
        sources=sources, prompts=len(prompts), samples=samples, sampling=sampling.checked(), pairing=pairing, arms=arms
    )
    told = {"of": chosen_from.value, "ids": list(prompts)} | (rule.stored() if rule else {})
    plan: dict[str, Any] = {
        "purpose": purpose,
        "prompts": told,
        "sources": [
            # Both sides of an evaluation were looked up with it; a run's parent may be of another project.
            _known(session, None if purpose is Purpose.EVALUATION else project, source).stored()
            for source in sources
        ],
        "samples": samples,
        "sampling": sampling.stored(),
        "pairing": pairing,
        "evaluation_id": evaluation_id,
    }
    job, is_new = jobs.queue(
        session,
        kind=JobKind.GENERATION,
        project_id=project.id,
        by=by,
        idempotency_key=idempotency_key,
        needs_device=any(source.kind is not AnswerKind.ENDPOINT for source in sources),
        now=now,
        sources=[source.key for source in sources],
        prompts=len(prompts),
        samples=samples,
    )
    if is_new:
        counts = {"prompts": len(prompts), "wanted": len(prompts) * len(sources) * samples}
        told_arms = replace(arms, checkpoint_id=margins.checkpoint_of(session, project=project, arms=arms)).stored()
        session.add(GenerationPlan(job_id=job.id, **plan, arms=told_arms, counts=counts))
        session.flush()
    made = get(session, job.id)
    if any(getattr(made, name) != value for name, value in plan.items()) or not arms_of(made).is_like(arms):
        raise jobs.key_used(made.job)
    return made


def _known(session: Session, project: Project | None, source: AnswerSource) -> AnswerSource:
    """The source as the plan keeps it, a checkpoint only of this project where one is given. Raises Invalid and NotFound."""
    if source.kind is AnswerKind.CHECKPOINT:
        trained = session.execute(
            select(Checkpoint.id, Checkpoint.job_id, Job.project_id)
            .join(TrainingRun, TrainingRun.job_id == Checkpoint.job_id)
            .join(Job, Job.id == TrainingRun.job_id)
            .where(Checkpoint.id == source.id)
        ).first()
        if trained is None or (project is not None and trained.project_id != project.id):
            raise NotFound(f"There is no checkpoint {source.id}.", "Look at the list of checkpoints.", field="sources")
        return AnswerSource(AnswerKind.CHECKPOINT, f"checkpoint {trained.id} of run {trained.job_id}", trained.id)
    if source.kind is AnswerKind.ENDPOINT:
        row = endpoints.by_name(session, source.name)
        prices = {name: getattr(row, name) for name in ("price_prompt", "price_completion", "currency")}
        return AnswerSource(AnswerKind.ENDPOINT, row.name, row.id, row.model, **prices)
    if not base_models.NAME.fullmatch(source.name):
        raise Invalid(
            f"“{source.name[:80]}” can't be the name of a base model.",
            "`prefloop models list` shows those that are here.",
            field="sources",
        )
    return source


def get(session: Session, job_id: int) -> GenerationPlan:
    """The plan with its job, project and starter. Raises NotFound, also for a job of another kind."""
    plan = session.scalars(_loaded().where(GenerationPlan.job_id == job_id)).first() if 0 < job_id < 2**31 else None
    if plan is None:
        raise NotFound(f"There is no generation {job_id}.", "Look at the project's list of generations.")
    return plan


def listing(session: Session, *, project: Project, page: int = 1, size: int = 50) -> paging.Page[GenerationPlan]:
    """A project's generations, newest first, each with its job and starter; their prompts aren't loaded."""
    query = _loaded().join(GenerationPlan.job).where(Job.project_id == project.id)
    query = query.options(defer(GenerationPlan.prompts, raiseload=True)).order_by(GenerationPlan.job_id.desc())
    return paging.fetch(session, query, page=page, size=size)


def sources(plan: GenerationPlan) -> list[AnswerSource]:
    """The plan's sources, in the order of their numbers."""
    return [AnswerSource.of(stored) for stored in plan.sources]


def arms_of(plan: GenerationPlan) -> Arms:
    """Which of the plan's pairs are asked."""
    return Arms.stored_as(plan.arms)


def prompt_ids(plan: GenerationPlan) -> list[int]:
    """The plan's prompts, in the order in which they are asked."""
    return list(plan.prompts["ids"])


def answers_wanted(plan: GenerationPlan) -> int:
    """How many answers there are at the end, if each comes."""
    return len(prompt_ids(plan)) * len(plan.sources) * plan.samples


def latest(session: Session, *, project: Project, limit: int = 20) -> list[GenerationPlan]:
    """A project's last generations that ended well, the newest first: what they took says what the next will take."""
    query = _loaded().join(GenerationPlan.job).where(Job.project_id == project.id, Job.state == JobState.SUCCEEDED)
    query = query.options(defer(GenerationPlan.prompts, raiseload=True)).order_by(GenerationPlan.job_id.desc())
    return list(session.scalars(query.limit(limit)))


def _loaded() -> Select[GenerationPlan]:
    job = joinedload(GenerationPlan.job)
    return select(GenerationPlan).options(job.joinedload(Job.project), job.joinedload(Job.created_by))
