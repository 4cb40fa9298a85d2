"""Label checks over the API: what one would cost, start one, see what it came to, go through its pairs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.config import Settings
from app.models import LabelCheck
from app.routes.api.training.checkpoints import DOWNLOAD, FileOut
from app.routes.api.training.jobs import JobOut, jobs_out
from app.services.loop.labels import checks, cost, pairs, words
from app.services.loop.labels.pairs import Listed, Listing
from app.services.loop.labels.plan import FOLDS, Plan
from app.services.training import runs
from app.web.deps import ApiEngineerDep, RowId, SessionDep, SettingsDep, StorageDep
from app.web.downloads import send_label_check_file
from app.web.problems import problems

router = APIRouter(tags=["label checks"])


class NewLabelCheck(BaseModel):
    model_config = ConfigDict(extra="forbid")

    folds: int = Field(FOLDS, description="Parts of the data; each is asked of a model that was trained on the others.")
    shares: list[float] = Field([0.1], max_length=3, description="Of the labels, to be turned around on purpose.")
    plantings: int = Field(2, description="How often each share is planted, each time with other pairs.")

    def plan(self) -> Plan:
        """Raises Invalid."""
        return Plan(self.folds, tuple(self.shares), self.plantings).checked()


class CheckCostOut(BaseModel):
    runs: int
    pairs: int = Field(description="That each of the runs is trained on.")
    seconds: float | None = Field(description="Of one worker; null where no finished run tells.")
    sentence: str


class TrustOut(BaseModel):
    share: float = Field(description="Of the labels that were turned around.")
    reliable: bool = Field(description="The lower end of the precision is at least three times the base rate.")
    sentence: str


class LabelCheckOut(JobOut):
    """A label check as it stands: a job of kind `label_check`. What it found is null until it is done."""

    of_job_id: int
    plan: dict[str, Any]
    trust: list[TrustOut] | None = Field(description="How far the list of contradictions can be trusted, in words.")
    result: dict[str, Any] | None = Field(
        description="The same in figures: `precision` of each planted share, `agreement` with the labels, `people`."
    )
    files: list[FileOut] = Field(description="Every pair's figures, as JSON Lines.")


class LabelChecksOut(BaseModel):
    items: list[LabelCheckOut]


class CheckedPairOut(BaseModel):
    """`place` in the list from 1. `exclusion_id`: of the exclusion in force, if the pair is left out now."""

    place: int
    comparison_id: int
    margin: float = Field(
        description="Of a model that wasn't trained on the pair, in nats times beta; below 0 it contradicts."
    )
    ches: float
    ches_normalised: float
    on_policy_gap: float = Field(
        description="Mean log-probability of a token, chosen less rejected, by the base model."
    )
    votes: int
    votes_chosen: int
    prompt: list[dict[str, Any]]
    chosen: str
    rejected: str
    exclusion_id: int | None

    @classmethod
    def of(cls, one: Listing) -> "CheckedPairOut":
        row = one.row
        return cls(
            place=one.place, comparison_id=row.comparison_id, margin=row.margin, ches=row.ches,
            ches_normalised=row.ches_normalised, on_policy_gap=row.on_policy_gap, votes=row.votes,
            votes_chosen=row.votes_chosen, prompt=one.prompt, chosen=one.chosen, rejected=one.rejected,
            exclusion_id=one.exclusion_id,
        )  # fmt: skip


class CheckedPairsOut(BaseModel):
    items: list[CheckedPairOut]
    page: int
    pages: int
    total: int


@router.post("/jobs/{job_id}/label-checks/cost", responses=problems(404, 409))
def show_cost(job_id: RowId, body: NewLabelCheck, session: SessionDep, _: ApiEngineerDep) -> CheckCostOut:
    """What a check of this run's labels would take. Nothing is stored."""
    run = runs.get(session, job_id)
    plan = checks.require(session, run=run, plan=body.plan())
    told = cost.of_check(session, run=run, plan=plan)
    return CheckCostOut(runs=told.runs, pairs=told.pairs, seconds=told.seconds, sentence=told.sentence)


@router.post("/jobs/{job_id}/label-checks", status_code=201, responses=problems(404, 409))
def create(
    job_id: RowId, body: NewLabelCheck, session: SessionDep, here: ApiEngineerDep, settings: SettingsDep
) -> LabelCheckOut:
    """Start one, or answer with the one that this run has by the same plan. One that failed or was cancelled is tried again."""
    check = checks.begin(session, run=runs.get(session, job_id), plan=body.plan(), by=here.user)
    return _out(session, [check], settings)[0]


@router.get("/jobs/{job_id}/label-checks", responses=problems(404))
def of_run(job_id: RowId, session: SessionDep, _: ApiEngineerDep, settings: SettingsDep) -> LabelChecksOut:
    """A run's label checks, the newest first; at most 50."""
    runs.check(session, job_id)
    return LabelChecksOut(items=_out(session, checks.of_run(session, job_id=job_id), settings))


@router.get("/label-checks/{job_id}", responses=problems(404))
def show(job_id: RowId, session: SessionDep, _: ApiEngineerDep, settings: SettingsDep) -> LabelCheckOut:
    """How far one is, and what it found."""
    return _out(session, [checks.get(session, job_id)], settings)[0]


@router.get("/label-checks/{job_id}/pairs", responses=problems(404))
def list_pairs(
    job_id: RowId,
    session: SessionDep,
    _: ApiEngineerDep,
    shown: Annotated[
        Listed, Query(alias="list", description="`contradict`: the others do; `lower`: the chosen answer would be.")
    ] = Listed.CONTRADICT,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> CheckedPairsOut:
    """One of its two lists, 50 pairs a page. `POST projects/{slug}/exclusions` leaves a pair out."""
    rows = pairs.listing(session, check=checks.get(session, job_id), listed=shown, page=page, size=50)
    return CheckedPairsOut(
        items=[CheckedPairOut.of(one) for one in rows.items], page=rows.number, pages=rows.pages, total=rows.total
    )


@router.head("/label-checks/{job_id}/files/{name}", include_in_schema=False)
@router.get("/label-checks/{job_id}/files/{name}", responses=DOWNLOAD, response_class=Response)
def download(
    job_id: RowId, name: str, request: Request, session: SessionDep, storage: StorageDep, _: ApiEngineerDep
) -> Response:
    """Every pair's figures as JSON Lines: `margins.jsonl`, and `planted-N.jsonl` with flips."""
    return send_label_check_file(request, session, storage, job_id=job_id, name=name)


def _out(session: Session, rows: list[LabelCheck], settings: Settings) -> list[LabelCheckOut]:
    told = jobs_out(session, [row.job for row in rows], settings)
    return [
        LabelCheckOut(
            **job.model_dump(),
            of_job_id=row.of_job_id,
            plan=row.plan,
            trust=None
            if row.result is None
            else [
                TrustOut(share=one.share, reliable=one.reliable, sentence=one.sentence)
                for one in words.trust(row.result)
            ],
            result=row.result,
            files=[FileOut(name=file.name, size=file.size, sha256=file.sha256) for file in row.files],
        )
        for row, job in zip(rows, told, strict=True)
    ]
