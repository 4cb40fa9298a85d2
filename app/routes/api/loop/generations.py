"""Generations over the API: what one would cost, start one, see how far it is and what arrived."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session
from app.errors import Conflict
from app.models import Arm, Finish, GenerationPlan, Pairing, Purpose
from app.routes.api.collecting.projects import Slug
from app.routes.api.training.jobs import JobOut, jobs_out
from app.services.collecting.blind import hidden
from app.services.loop import generations
from app.services.loop.generating import answers, cost
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import MOST_PROMPTS, AnswerSource, Sampling, drawn_seed
from app.services.loop.generations import Order
from app.web.deps import (
    ApiEngineerDep,
    ApiEngineerUploaderDep,
    EngineDep,
    RowId,
    SessionDep,
    SettingsDep,
    client_address,
)
from app.web.problems import problems

router = APIRouter(tags=["generations"])

OPEN_RULES = (From.PROJECT, From.TRAIN, From.EVAL, From.IMPORT)


class SamplingIn(BaseModel):
    """What is left out is the default."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(0.8, description="0 takes the most likely word; then one answer a prompt.")
    top_p: float = 0.95
    max_new_tokens: int = 256
    seed: int | None = Field(
        None,
        description="Left out: one is drawn. Each answer gets a seed of its own from it. Endpoints are told it; what they do is theirs.",
    )


class NewGeneration(BaseModel):
    """Answers to prompts of the project (`prompts_from`), or to given ones (`prompts`)."""

    model_config = ConfigDict(extra="forbid")

    sources: list[str] = Field(
        max_length=100,
        description="`base:NAME`, `checkpoint:ID` or `endpoint:NAME`.",
        examples=[["base:smollm2-135m-instruct", "endpoint:vllm"]],
    )
    samples: int = Field(1, description="Answers of each source to each prompt.")
    sampling: SamplingIn = SamplingIn()
    pairing: Pairing = Field(
        Pairing.ACROSS, description="`across`: each two sources; `round_robin`: each answer against the next; `none`."
    )
    prompts: list[str | list[dict[str, Any]]] = Field(
        [], max_length=MOST_PROMPTS, description="Texts, or lists of messages. They become prompts of the project."
    )
    prompts_from: From = Field(From.PROJECT, description="`project`, `train`, `eval` or `import`, without `prompts`.")
    import_id: int | None = Field(None, ge=1, le=2**31 - 1)
    limit: int = Field(200, description="Prompts at most. They are drawn by the seed.")
    arms: dict[Arm, float] = Field(
        {}, description="Shares of the prompts by arm, which add up to 1; random has 0.2 or more. Left out: random alone.",
        examples=[{"random": 0.5, "margin": 0.5}],
    )  # fmt: skip
    keep: float | None = Field(
        None, description="Share of the candidate pairs that is asked. Left out: all, or half where arms are to choose."
    )

    def order(self, key: str | None = None) -> Order:
        """Raises Invalid."""
        sampling = self.sampling.model_dump()
        sampling["seed"] = drawn_seed(key) if sampling["seed"] is None else sampling["seed"]
        return Order(
            sources=[AnswerSource.parse(text) for text in self.sources],
            sampling=Sampling.of(sampling),
            samples=self.samples,
            pairing=self.pairing,
            rule=Rule(
                self.prompts_from if self.prompts_from in OPEN_RULES else From.PROJECT,
                self.import_id,
                self.limit,
                sampling["seed"],
            ),
            given=self.prompts,
            arms=Arms.of({arm.value: share for arm, share in self.arms.items()}, self.keep),
        )


class MoneyOut(BaseModel):
    currency: str
    expected: float | None
    most: float


class CostOut(BaseModel):
    """What a generation would take. `sentences` say the same in words."""

    answers: int
    seconds: float | None = Field(description="Of the sources that were measured here.")
    money: list[MoneyOut]
    unmeasured: list[str]
    unpriced: list[str]
    sentences: list[str]


class GenerationOut(JobOut):
    """A generation as it stands: a job of kind `generation`."""

    purpose: Purpose
    sources: list[dict[str, Any]] = Field(description="In the order of their numbers.")
    samples: int
    sampling: dict[str, Any]
    pairing: Pairing
    arms: dict[str, Any] = Field(description="Which pairs are asked: `shares`, `keep`, `checkpoint`; empty asks all.")
    prompts: dict[str, Any] = Field(description="Where they came from, and how many.")
    counts: dict[str, Any] = Field(description="Answers, failures, tokens, pairs, and pairs that weren't made.")
    paid: dict[str, float] = Field(description="By currency, from counted tokens and the prices of its start.")
    evaluation_id: int | None


class GenerationsOut(BaseModel):
    items: list[GenerationOut]
    page: int
    pages: int
    total: int


class AnswerOut(BaseModel):
    """An answer as it arrived. `source`: its number in the generation's list."""

    id: int
    prompt_id: int
    prompt: list[dict[str, Any]]
    source: int
    sample: int
    seed: int
    text: str
    finish: Finish
    tokens: int | None
    prompt_tokens: int | None
    marks: list[str]
    created_at: datetime


class AnswersOut(BaseModel):
    items: list[AnswerOut]
    page: int
    pages: int
    total: int


def generation_out(
    session: Session, plan: GenerationPlan, settings: Settings, prompts: Mapping[str, Any]
) -> GenerationOut:
    (job,) = jobs_out(session, [plan.job], settings)
    names = ("purpose", "sources", "samples", "sampling", "pairing", "arms", "counts", "evaluation_id")
    told = {name: getattr(plan, name) for name in names}
    return GenerationOut(**job.model_dump(), **told, prompts=dict(prompts), paid=cost.paid(plan))


def _prompts(plan: GenerationPlan) -> dict[str, Any]:
    told = {name: value for name, value in plan.prompts.items() if name != "ids"}
    return told | {"count": len(plan.prompts["ids"])}


@router.post("/projects/{slug}/generations/estimate", responses=problems(404))
def estimate(slug: Slug, body: NewGeneration, here: ApiEngineerUploaderDep, engine: EngineDep) -> CostOut:
    """What a generation would take; nothing is started or stored."""
    with read_session(engine) as session:
        told = generations.estimate(session, project=here.project, order=body.order())
    return CostOut(
        answers=told.answers, seconds=told.seconds, unmeasured=list(told.unmeasured), unpriced=list(told.unpriced),
        money=[MoneyOut(currency=one.currency, expected=one.expected, most=one.most) for one in told.money],
        sentences=told.sentences,
    )  # fmt: skip


@router.post("/projects/{slug}/generations", status_code=201, responses=problems(404, 409))
def create(
    slug: Slug,
    body: NewGeneration,
    request: Request,
    here: ApiEngineerUploaderDep,
    engine: EngineDep,
    settings: SettingsDep,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> GenerationOut:
    """Queue a generation. With an `Idempotency-Key`, a repeated request answers with the same one."""
    plan = generations.begin(
        engine, project=here.project, by_id=here.user.id, order=body.order(idempotency_key),
        idempotency_key=idempotency_key, address=client_address(request),
    )  # fmt: skip
    with read_session(engine) as session:
        return generation_out(session, generations.get(session, plan.job_id), settings, _prompts(plan))


@router.get("/projects/{slug}/generations", responses=problems(404))
def listing(
    slug: Slug,
    session: SessionDep,
    here: ApiEngineerDep,
    settings: SettingsDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> GenerationsOut:
    """A project's generations, the newest first."""
    shown = generations.listing(session, project=here.project, page=page, size=size)
    items = [generation_out(session, plan, settings, {"count": plan.counts.get("prompts", 0)}) for plan in shown.items]
    return GenerationsOut(items=items, page=shown.number, pages=shown.pages, total=shown.total)


@router.get("/generations/{job_id}", responses=problems(404))
def show(job_id: RowId, session: SessionDep, _: ApiEngineerDep, settings: SettingsDep) -> GenerationOut:
    """One generation. Cancel it and try it again as any job."""
    plan = generations.get(session, job_id)
    return generation_out(session, plan, settings, _prompts(plan))


@router.get("/generations/{job_id}/answers", responses=problems(404, 409))
def list_answers(
    job_id: RowId,
    session: SessionDep,
    _: ApiEngineerDep,
    mark: Annotated[str, Query(max_length=40, description="Those alone that have this mark.")] = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> AnswersOut:
    """The answers that have arrived by now, also while it runs. 409 for those of an evaluation that is prepared or asks: whoever saw
    which side gave which couldn't judge them blind."""
    blind = hidden.evaluation(session, generations.get(session, job_id).evaluation_id)
    if blind is not None:
        raise Conflict(
            f"The answers of generation {job_id} are hidden while their blind batch asks.",
            f"Ask again when evaluation {blind.number} has ended.",
            number=blind.number,
        )
    shown = answers.listing(session, job_id=job_id, page=page, size=size, mark=mark)
    same = [name for name in AnswerOut.model_fields if name != "prompt"]
    items = [
        AnswerOut(**{name: getattr(row, name) for name in same}, prompt=prompt.messages) for row, prompt in shown.items
    ]
    return AnswersOut(items=items, page=shown.number, pages=shown.pages, total=shown.total)
