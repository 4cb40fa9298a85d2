"""Taking data out: a file as a stream, or made in the background for a download that can be resumed."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from app.db import read_session, write_session
from app.models import Container, Extract, ExtractForm, ExtractState, Split, User
from app.routes.api.collecting.projects import Slug
from app.services.datasets import snapshots
from app.services.datasets.extracts import extracts
from app.services.datasets.extracts.containers import MEDIA_TYPES, chunks
from app.storage import StoredFile
from app.web.deps import ApiEngineerDep, ApiEngineerUploaderDep, EngineDep, RowId, SessionDep, StorageDep
from app.web.downloads import send_extract
from app.web.problems import problems

router = APIRouter(tags=["extracts"])
FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()},
    },
    **problems(404),
}
FORM = Query(ExtractForm.OWN, description="`own`: everything, with every vote; `trl`, `openai`: pairs of a snapshot.")
CONTAINER = Query(Container.JSONL, alias="as")
SNAPSHOT = Query(None, ge=1, le=2**31 - 1, description="A snapshot's id; needed but for `own`.")
SPLIT = Query(None, description="Needed but for `own`.")


class ExtractIn(BaseModel):
    form: ExtractForm = Field(
        ExtractForm.OWN, description="`own`: everything, with every vote; `trl`, `openai`: a snapshot."
    )
    container: Container = Container.JSONL
    snapshot: int | None = Field(None, ge=1, le=2**31 - 1, description="A snapshot's id; needed but for `own`.")
    split: Split | None = Field(None, description="Needed but for `own`.")


class ExtractFile(BaseModel):
    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, file: StoredFile) -> "ExtractFile":
        return cls(name=file.name, size=file.size, sha256=file.sha256)


class ExtractOut(BaseModel):
    id: int
    form: ExtractForm
    container: Container
    snapshot: int | None
    split: Split | None
    state: ExtractState
    lines: int
    left_out: dict[str, int] = Field(
        description="Pairs that the form can't hold, by reason; `sources_hidden`: those that lack their sources while a blind batch asks."
    )
    file: ExtractFile | None = Field(description="Once it is done: GET extracts/{id}/file.")
    error: str
    created_at: datetime

    @classmethod
    def of(cls, row: Extract) -> "ExtractOut":
        return cls(
            id=row.id,
            form=row.form,
            container=row.container,
            snapshot=row.snapshot_id,
            split=row.split,
            state=row.state,
            lines=row.lines,
            left_out=row.left_out,
            file=ExtractFile.of(row.files[0]) if row.files else None,
            error=row.error,
            created_at=row.created_at,
        )


@router.get("/projects/{slug}/extract", response_class=Response, responses=FILES)
def stream(
    slug: Slug,
    engine: EngineDep,
    here: ApiEngineerDep,
    storage: StorageDep,
    form: ExtractForm = FORM,
    container: Container = CONTAINER,
    snapshot: int | None = SNAPSHOT,
    split: Split | None = SPLIT,
) -> Response:
    """A project's data as one stream. For a large one make an extract: its download can be resumed."""
    project, frozen = here.project, None
    if snapshot is not None:
        with read_session(engine) as session:
            frozen = snapshots.of_project(session, project=project, snapshot_id=snapshot)
    rows = extracts.rows(engine, storage, form=form, project_id=project.id, snapshot=frozen, split=split)
    bytes_of = chunks(rows, container)
    first = next(bytes_of, b"")  # here, so that what can't be read is an error and not a broken download
    name = extracts.name_of(project, form, container, frozen, split)
    return StreamingResponse(
        _after(first, bytes_of),
        media_type=MEDIA_TYPES[container],
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"},
    )


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@router.post("/projects/{slug}/extracts", status_code=202, responses=problems(404))
def make_extract(
    slug: Slug, body: ExtractIn, engine: EngineDep, here: ApiEngineerUploaderDep, storage: StorageDep
) -> ExtractOut:
    """Make a file in the background; look at it until its `state` is `done`."""
    with write_session(engine) as session:
        project, frozen = here.project, None
        if body.snapshot is not None:
            frozen = snapshots.of_project(session, project=project, snapshot_id=body.snapshot)
        extracts.rows(engine, storage, form=body.form, project_id=project.id, snapshot=frozen, split=body.split)
        row = extracts.create(
            session,
            project=project,
            by=session.get_one(User, here.user.id),
            form=body.form,
            container=body.container,
            snapshot=frozen,
            split=body.split,
        )
    extracts.start(engine, storage, row.id)
    return ExtractOut.of(row)


@router.get("/projects/{slug}/extracts", responses=problems(404))
def list_extracts(slug: Slug, session: SessionDep, here: ApiEngineerDep) -> list[ExtractOut]:
    """A project's latest twenty extracts, the newest first."""
    return [ExtractOut.of(row) for row in extracts.listing(session, project=here.project)]


@router.get("/extracts/{extract_id}", responses=problems(404))
def show_extract(extract_id: RowId, session: SessionDep, _: ApiEngineerDep) -> ExtractOut:
    """One extract, also while it is made."""
    return ExtractOut.of(extracts.get(session, extract_id))


@router.get("/extracts/{extract_id}/file", response_class=Response, responses=FILES)
def download_extract(
    extract_id: RowId, request: Request, engine: EngineDep, _: ApiEngineerDep, storage: StorageDep
) -> Response:
    """The file, whole or a range of it."""
    return send_extract(request, engine, storage, extract_id=extract_id)
