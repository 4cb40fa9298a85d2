"""Exports of checkpoints over the API: queue one, see how far it is, download its files."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db import read_session, write_session
from app.models import Export, ExportFormat, JobState
from app.routes.api.training.checkpoints import DOWNLOAD, CheckpointId, FileOut
from app.services.training import checkpoints, exports
from app.web.deps import ApiEngineerDep, ApiEngineerUploaderDep, EngineDep, SessionDep, SettingsDep, StorageDep
from app.web.downloads import send_export_archive, send_export_file
from app.web.problems import problems

router = APIRouter(tags=["checkpoints"])
Format = Annotated[str, Path(max_length=24, description="One of `merged`, `gguf-f16`, `gguf-q8_0`.")]


class NewExport(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: ExportFormat


class ExportOut(BaseModel):
    """An export and how its job stands. `files` and `proof` (what was compared, with figures) come with its end."""

    format: ExportFormat
    checkpoint_id: int
    job_id: int
    state: JobState
    stage: str
    step: int
    total_steps: int | None
    error: str
    error_code: str
    files: list[FileOut]
    size: int
    proof: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, export: Export) -> "ExportOut":
        job = export.job
        return cls(
            format=export.format, checkpoint_id=export.checkpoint_id, job_id=job.id, state=job.state, stage=job.phase,
            step=job.step, total_steps=job.total_steps, error=job.error, error_code=job.error_code,
            files=[FileOut(name=file.name, size=file.size, sha256=file.sha256) for file in export.files],
            size=exports.size(export), proof=export.proof, created_at=job.created_at, finished_at=job.finished_at,
        )  # fmt: skip


class ExportsOut(BaseModel):
    items: list[ExportOut]
    refused: dict[ExportFormat, str] = Field(description="Formats that this model can't be exported in, with why.")


@router.post("/checkpoints/{checkpoint_id}/exports", status_code=201, responses=problems(404))
def create(
    checkpoint_id: CheckpointId,
    body: NewExport,
    engine: EngineDep,
    here: ApiEngineerUploaderDep,
    settings: SettingsDep,
    storage: StorageDep,
) -> ExportOut:
    """Queue an export, or answer with the one that there is in this format. One that failed or was cancelled is tried again."""
    with read_session(engine) as session:
        checkpoint = checkpoints.get(session, checkpoint_id)
    refused = exports.refusals(settings, storage, checkpoint=checkpoint)
    with write_session(engine) as session:
        by = here.within(session).user
        export = exports.create(session, checkpoint=checkpoint, format=body.format, by=by, refused=refused)
        return ExportOut.of(export)


@router.get("/checkpoints/{checkpoint_id}/exports", responses=problems(404))
def listing(
    checkpoint_id: CheckpointId, session: SessionDep, _: ApiEngineerDep, settings: SettingsDep, storage: StorageDep
) -> ExportsOut:
    """A checkpoint's exports, and the formats that its model can't have."""
    checkpoint = checkpoints.get(session, checkpoint_id)
    items = [ExportOut.of(export) for export in exports.of_checkpoint(session, checkpoint=checkpoint)]
    return ExportsOut(items=items, refused=exports.refusals(settings, storage, checkpoint=checkpoint))


@router.head("/checkpoints/{checkpoint_id}/exports/{format}/files/{name}", include_in_schema=False)
@router.get("/checkpoints/{checkpoint_id}/exports/{format}/files/{name}", responses=DOWNLOAD, response_class=Response)
def download(
    checkpoint_id: CheckpointId,
    format: Format,
    name: str,
    request: Request,
    session: SessionDep,
    storage: StorageDep,
    _: ApiEngineerDep,
) -> Response:
    """One file of a finished export. Range, If-Range and If-None-Match work; the ETag is its SHA-256."""
    return send_export_file(request, session, storage, checkpoint_id=checkpoint_id, format=format, name=name)


@router.head("/checkpoints/{checkpoint_id}/exports/{format}/archive.tar", include_in_schema=False)
@router.get("/checkpoints/{checkpoint_id}/exports/{format}/archive.tar", responses=DOWNLOAD, response_class=Response)
def archive(
    checkpoint_id: CheckpointId,
    format: Format,
    request: Request,
    session: SessionDep,
    storage: StorageDep,
    _: ApiEngineerDep,
) -> Response:
    """All files of a finished export as one tar. Resumable like a single file."""
    return send_export_archive(request, session, storage, checkpoint_id=checkpoint_id, format=format)
