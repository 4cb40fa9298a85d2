"""Snapshots: what would be frozen, freezing it, and its files."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StrictBool, StrictInt
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import read_session
from app.errors import StillCounting
from app.models import Project, Snapshot
from app.routes.api.collecting.projects import Slug
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.datasets import figures, snapshots
from app.services.datasets.snapshots import Preview
from app.web.deps import (
    ApiEngineerDep,
    ApiLeadDep,
    ApiLeadUploaderDep,
    EngineDep,
    Here,
    RowId,
    SessionDep,
    StorageDep,
    client_address,
)
from app.web.downloads import send_snapshot_file
from app.web.problems import problems

router = APIRouter(tags=["snapshots"])
LINES: dict[str, Any] = {"application/x-ndjson": {"schema": {"type": "string", "format": "binary"}}}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON Lines that TRL's DPOTrainer reads as they are.", "content": LINES},
    206: {"description": "The range that was asked for.", "content": LINES},
    304: {"description": "The client has it already (If-None-Match)."},
    416: {"description": "The range begins beyond the end."},
    **problems(404),
}


class RuleIn(BaseModel):
    """How votes become pairs: the choice that more people made than any other wins. What is left out has its default."""

    min_judgments: StrictInt = Field(1, ge=1, le=25, description="Votes that a comparison needs; skips don't count.")
    include_late: StrictBool = Field(
        True, description="Count judgments that came after their pair had been given to somebody else."
    )
    include_flagged: StrictBool = Field(False, description="Keep pairs that an evaluator flagged as unfit.")
    include_near_duplicates: StrictBool = Field(
        False, description="Train also on pairs whose prompt is a near duplicate of one that is kept for evaluation."
    )
    soft_labels: StrictBool = Field(
        False, description="`p_chosen` is the chosen answer's share of the votes instead of 1."
    )
    weights: Literal["equal", "strength"] = Field(
        "equal", description="`strength`: slightly 0.5, clearly 1, far 1.5, averaged over the winning votes."
    )
    new_to_checkpoint: StrictInt = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Train only on pairs that this checkpoint, and those that it comes from, wasn't trained on. 0: on all.",
    )


class FreezeIn(BaseModel):
    rule: RuleIn = RuleIn()


class Counts(BaseModel):
    comparisons: int
    judgments: int
    pairs: int
    train: int
    eval: int
    left_out: dict[str, int] = Field(description="Comparisons that give no pair, by reason.")
    excluded_judgments: int = Field(description="Judgments of other comparisons that were excluded.")


class Warning(BaseModel):
    code: str
    text: str


class PreviewOut(BaseModel):
    rule: RuleIn
    counts: Counts
    statistics: dict[str, Any] = Field(
        description="Lengths, how often the longer and the left answer won, people, agreement, sources."
    )
    warnings: list[Warning]
    sentence: str
    as_of: datetime | None = Field(description="When the figures of a large project were computed; null: now.")

    @classmethod
    def of(cls, preview: Preview, as_of: datetime | None) -> "PreviewOut":
        statistics = asdict(preview.statistics)
        del statistics["warnings"]  # told apart, with their codes named
        return cls(
            rule=RuleIn(**preview.rule.as_dict()),
            counts=Counts.model_validate(preview.counts, from_attributes=True),
            statistics=statistics,
            sentence=preview.sentence,
            as_of=as_of,
            warnings=[Warning(code=code, text=text) for code, text in preview.warnings],
        )


class SnapshotFile(BaseModel):
    name: str
    size: int
    sha256: str
    pairs: int


class SnapshotOut(BaseModel):
    id: int
    project: str
    number: int = Field(description="Counted from 1 in its project.")
    sha256: str = Field(description="Of the output of `sha256sum eval.jsonl train.jsonl`.")
    rule: RuleIn
    counts: Counts
    statistics: dict[str, Any]
    files: list[SnapshotFile]
    created_at: datetime

    @classmethod
    def of(cls, row: Snapshot, project: str) -> "SnapshotOut":
        return cls(
            id=row.id,
            project=project,
            number=row.number,
            sha256=row.sha256,
            # A snapshot of before there were groups of near duplicates left none of them out.
            rule=RuleIn(**{"include_near_duplicates": True, **row.rule}),
            counts=Counts.model_validate(row.counts, from_attributes=True),
            statistics=asdict(row.statistics),
            files=[
                SnapshotFile(
                    name=file.name, size=file.size, sha256=file.sha256, pairs=snapshots.pairs_in(row, file.name)
                )
                for file in row.files
            ],
            created_at=row.created_at,
        )


@router.get("/projects/{slug}/preview", responses=problems(404))
def preview(slug: Slug, session: SessionDep, engine: EngineDep, here: ApiLeadDep) -> PreviewOut:
    """What a snapshot by the default rule would hold now. Of a large project what it would have held at `as_of`; 503
    (`still_counting`) until that is computed for the first time."""
    return _preview(session, engine, here.project, {})


@router.post("/projects/{slug}/preview", responses=problems(404))
def preview_rule(slug: Slug, body: FreezeIn, session: SessionDep, engine: EngineDep, here: ApiLeadDep) -> PreviewOut:
    """What a snapshot by this rule would hold. Nothing is stored."""
    return _preview(session, engine, here.project, _rule(session, here, body.rule))


def _rule(session: Session, here: Here, rule: RuleIn) -> dict[str, Any]:
    """The rule for the services. Raises NotFound for a checkpoint that isn't there, or isn't for whoever asks."""
    if rule.new_to_checkpoint:
        access.get(session, caller=Caller.of(here.user), of="checkpoint_id", value=rule.new_to_checkpoint)
    return rule.model_dump()


def _preview(session: Session, engine: Engine, project: Project, rule: dict[str, Any]) -> PreviewOut:
    known = figures.look(session, project=project, rule=rule)
    if known.is_due:
        figures.refresh(engine, project_id=project.id, rule=rule)
    if known.preview is None:
        raise StillCounting(
            "The figures of this project are being computed for the first time.", "Ask again in a minute."
        )
    return PreviewOut.of(known.preview, known.as_of)


@router.get("/projects/{slug}/snapshots", responses=problems(404))
def list_snapshots(slug: Slug, session: SessionDep, here: ApiLeadDep) -> list[SnapshotOut]:
    """A project's snapshots, the newest first."""
    return [SnapshotOut.of(row, slug) for row in snapshots.listing(session, project=here.project)]


@router.post("/projects/{slug}/snapshots", status_code=201, responses=problems(404, 409))
def freeze(
    slug: Slug,
    request: Request,
    here: ApiLeadUploaderDep,
    engine: EngineDep,
    storage: StorageDep,
    body: FreezeIn = FreezeIn(),
) -> SnapshotOut:
    """Freeze the judgments of now. Content that a snapshot of the project has already answers that snapshot; 409
    (`snapshot_empty`) where nothing is left to train on."""
    with read_session(engine) as session:
        rule = _rule(session, here, body.rule)
    row = snapshots.freeze(
        engine,
        project=here.project,
        by_id=here.user.id,
        storage=storage,
        rule=rule,
        address=client_address(request),
    )
    return SnapshotOut.of(row, slug)


@router.get("/snapshots/{snapshot_id}", responses=problems(404))
def show_snapshot(snapshot_id: RowId, session: SessionDep, _: ApiLeadDep) -> SnapshotOut:
    """One snapshot."""
    row = snapshots.get(session, snapshot_id)
    return SnapshotOut.of(row, row.project.slug)


@router.get("/snapshots/{snapshot_id}/files/{name}", response_class=Response, responses=DOWNLOAD)
def download(
    snapshot_id: RowId,
    name: Literal["train.jsonl", "eval.jsonl"],
    request: Request,
    session: SessionDep,
    _: ApiEngineerDep,
    storage: StorageDep,
) -> Response:
    """`train.jsonl` or `eval.jsonl`: `prompt`, `chosen` and `rejected` as lists of messages, `weight`, `p_chosen`, ids."""
    return send_snapshot_file(request, session, storage, snapshot_id=snapshot_id, name=name)
