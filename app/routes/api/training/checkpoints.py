"""Checkpoints over the API: where each comes from, and its files."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from app.db import read_session
from app.errors import NotFound
from app.models import Checkpoint, Stage
from app.services.loop import verdicts
from app.services.loop.verdict import card
from app.services.training import checkpoints
from app.web.deps import (
    ApiCallerDep,
    ApiEngineerDep,
    ApiEngineerUploaderDep,
    EngineDep,
    SessionDep,
    StorageDep,
    project_to_train,
)
from app.web.downloads import send_checkpoint_archive, send_checkpoint_file
from app.web.problems import problems

router = APIRouter(tags=["checkpoints"])

CheckpointId = Annotated[int, Path(ge=1, le=2**31 - 1)]
BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
CARD: dict[int | str, dict[str, Any]] = {200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole.", "content": {"application/octet-stream": BYTES}},
    206: {"description": "The range that was asked for.", "content": {"application/octet-stream": BYTES}},
    304: {"description": "The client has it already (If-None-Match)."},
    416: {"description": "The range begins beyond the end."},
    **problems(404),
}


class FileOut(BaseModel):
    name: str
    size: int
    sha256: str


class CheckpointOut(BaseModel):
    """A checkpoint, its metrics on the eval split before and after, and the whole chain of where it comes from."""

    id: int
    project: str
    job_id: int
    name: str
    stage: Stage
    step: int
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    files: list[FileOut]
    size: int
    created_at: datetime

    @classmethod
    def of(cls, row: Checkpoint) -> "CheckpointOut":
        return cls(
            id=row.id, project=row.run.job.project.slug, job_id=row.job_id, name=row.name, stage=row.stage, step=row.step,
            metrics=row.metrics, provenance=row.provenance, size=checkpoints.size(row), created_at=row.created_at,
            files=[FileOut(name=file.name, size=file.size, sha256=file.sha256) for file in row.files],
        )  # fmt: skip


class CheckpointsOut(BaseModel):
    items: list[CheckpointOut]
    page: int
    pages: int
    total: int


@router.get("/checkpoints", responses=problems(404))
def listing(
    session: SessionDep,
    caller: ApiCallerDep,
    project: Annotated[str | None, Query(max_length=64)] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> CheckpointsOut:
    """Checkpoints of the projects that you are an engineer of, newest first."""
    of = project_to_train(session, caller=caller, of="slug", value=project) if project is not None else None
    checkpoints_page = checkpoints.listing(session, project=of, caller=caller, page=page, size=size)
    items = [CheckpointOut.of(row) for row in checkpoints_page.items]
    return CheckpointsOut(
        items=items, page=checkpoints_page.number, pages=checkpoints_page.pages, total=checkpoints_page.total
    )


@router.get("/checkpoints/{checkpoint_id}", responses=problems(404))
def show(checkpoint_id: CheckpointId, session: SessionDep, _: ApiEngineerDep) -> CheckpointOut:
    """One checkpoint."""
    return CheckpointOut.of(checkpoints.get(session, checkpoint_id))


@router.get("/checkpoints/{checkpoint_id}/card", responses=CARD | problems(404), response_class=Response)
def model_card(
    checkpoint_id: CheckpointId, engine: EngineDep, storage: StorageDep, _: ApiEngineerUploaderDep
) -> Response:
    """The model card as Markdown, with what blind evaluations that have ended came to. Its file README.md is the card as it was
    made, before anybody judged."""
    told = verdicts.ended_now(engine, checkpoint_id=checkpoint_id)
    with read_session(engine) as session:
        text = card.whole(checkpoints.get(session, checkpoint_id), storage, told)
    if not text:
        raise NotFound(f"Checkpoint {checkpoint_id} has no model card.", "Look at its files.")
    return Response(text + "\n", media_type="text/markdown; charset=utf-8")


@router.head("/checkpoints/{checkpoint_id}/files/{name:path}", include_in_schema=False)
@router.get("/checkpoints/{checkpoint_id}/files/{name:path}", responses=DOWNLOAD, response_class=Response)
def download(
    checkpoint_id: CheckpointId,
    name: str,
    request: Request,
    session: SessionDep,
    storage: StorageDep,
    _: ApiEngineerDep,
) -> Response:
    """One file. Range, If-Range and If-None-Match work; the ETag is its SHA-256."""
    return send_checkpoint_file(request, session, storage, checkpoint_id=checkpoint_id, name=name)


@router.head("/checkpoints/{checkpoint_id}/archive.tar", include_in_schema=False)
@router.get("/checkpoints/{checkpoint_id}/archive.tar", responses=DOWNLOAD, response_class=Response)
def archive(
    checkpoint_id: CheckpointId, request: Request, session: SessionDep, storage: StorageDep, _: ApiEngineerDep
) -> Response:
    """All files as one tar. Resumable like a single file."""
    return send_checkpoint_archive(request, session, storage, checkpoint_id=checkpoint_id)
