"""Where things went and where they come from, and a run again without what was excluded."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.errors import NotFound
from app.services.collecting import listing
from app.services.loop import lineage, retraining
from app.services.loop.lineage import Kind, Lineage
from app.services.training import runs
from app.web.deps import (
    ApiEngineerDep,
    ApiEngineerUploaderDep,
    ApiLeadDep,
    EngineDep,
    RowId,
    SessionDep,
    StorageDep,
    client_address,
)
from app.web.problems import problems

router = APIRouter(tags=["lineage"])


class Named(BaseModel):
    kind: Kind
    id: int


class NodeOut(Named):
    title: str
    state: str
    excluded: int = Field(description="Pairs in what it was made from that were excluded later and are so still.")
    sources: list[Named] = Field(description="What it was made from.")


class LineageOut(BaseModel):
    about: Named
    excluded: int = Field(description="Of what is asked about: pairs in it that were excluded later.")
    nodes: list[NodeOut] = Field(description="From the data to what was made of it; at most 200 of each kind.")
    unread: int = Field(description="Snapshots of an earlier version that are still to be looked through.")

    @classmethod
    def of(cls, told: Lineage) -> "LineageOut":
        def named(pair: tuple[Kind, int]) -> Named:
            return Named(kind=pair[0], id=pair[1])

        nodes = [
            NodeOut(
                kind=node.kind,
                id=node.id,
                title=node.title,
                state=node.state,
                excluded=node.excluded,
                sources=[named(source) for source in node.sources],
            )
            for node in told.nodes
        ]
        return cls(about=named(told.about), excluded=told.excluded, nodes=nodes, unread=told.unread)


class RetrainedOut(BaseModel):
    job_id: int
    snapshot_id: int
    note: str


class SideOut(BaseModel):
    job_id: int
    checkpoint_id: int | None
    snapshot_id: int
    snapshot_number: int
    snapshot_sha256: str
    weights: dict[str, str] = Field(description="SHA-256 of each file of weights; empty before the run is done.")
    from_checkpoint: int | None = Field(description="What it started from; null: its base model.")


class ReceiptOut(BaseModel):
    before: SideOut
    after: SideOut
    pairs_left_out: int
    pairs_decided_anew: int


@router.get("/comparisons/{comparison_id}/lineage", responses=problems(404))
def of_comparison(comparison_id: RowId, session: SessionDep, _: ApiLeadDep) -> LineageOut:
    """Every snapshot, run, checkpoint, export and verdict that used a pair, and so its judgments."""
    row = listing.comparison(session, comparison_id)
    return LineageOut.of(lineage.of_pair(session, comparison=row))


@router.get("/snapshots/{snapshot_id}/lineage", responses=problems(404))
def of_snapshot(snapshot_id: RowId, session: SessionDep, _: ApiLeadDep) -> LineageOut:
    """What was made from a snapshot, and what of it was excluded later."""
    return LineageOut.of(lineage.of_snapshot(session, snapshot_id=snapshot_id))


@router.get("/jobs/{job_id}/lineage", responses=problems(404))
def of_run(job_id: RowId, session: SessionDep, _: ApiEngineerDep) -> LineageOut:
    """What a run was trained on, and what came of it."""
    runs.check(session, job_id)
    return LineageOut.of(lineage.of_run(session, job_id=job_id))


@router.get("/checkpoints/{checkpoint_id}/lineage", responses=problems(404))
def of_checkpoint(checkpoint_id: RowId, session: SessionDep, _: ApiEngineerDep) -> LineageOut:
    """Where a checkpoint comes from, and what was made of it."""
    return LineageOut.of(lineage.of_checkpoint(session, checkpoint_id=checkpoint_id))


@router.post("/jobs/{job_id}/retrain-without", status_code=201, responses=problems(404, 409))
def retrain(
    job_id: RowId, request: Request, engine: EngineDep, here: ApiEngineerUploaderDep, storage: StorageDep
) -> RetrainedOut:
    """Freeze the run's snapshot without what is excluded now, and start the same run on it. 409 where nothing of it is
    excluded. Asked again it answers the run that it made."""
    run = retraining.retrain(
        engine, job_id=job_id, by_id=here.user.id, storage=storage, address=client_address(request)
    )
    return RetrainedOut(job_id=run.job_id, snapshot_id=run.snapshot_id, note=run.note)


@router.get("/jobs/{job_id}/receipt", responses=problems(404))
def receipt(job_id: RowId, session: SessionDep, _: ApiEngineerDep) -> ReceiptOut:
    """Of a run that is another one again without something: hashes of both snapshots and of both runs' weights."""
    told: Any = retraining.receipt(session, job_id=job_id)
    if told is None:
        raise NotFound(
            f"Run {job_id} isn't another run again.", "Ask for the receipt of a run that was retrained without."
        )
    return ReceiptOut.model_validate(told.as_dict())
