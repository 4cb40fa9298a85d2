"""Imports: a file as the body of one request, read as it comes."""

import io
from datetime import datetime
from typing import Annotated, Any, BinaryIO, cast

import anyio.to_thread
from anyio import CapacityLimiter, from_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import Engine
from starlette.requests import ClientDisconnect

from app.config import Settings
from app.errors import Invalid
from app.models import Import, ImportState
from app.routes.api.collecting.projects import Slug
from app.services.collecting.imports import load, mapping
from app.web.bodies import ImportPlacesDep
from app.web.deps import ApiLeadDep, ApiLeadUploaderDep, EngineDep, Here, RowId, SessionDep, SettingsDep
from app.web.problems import problems

router = APIRouter(tags=["imports"])
LINES = (
    '{"prompt": "Where is my order?", "responses": ["It left this morning.", "No idea."], "sources": ["model-a", "model-b"], "id": 7}\n'
    '{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello!"}], '
    '"rejected": [{"role": "assistant", "content": "What?"}]}\n'
)
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "JSON Lines in UTF-8."},
                "example": LINES,
            },
            "application/gzip": {
                "schema": {"type": "string", "format": "binary", "description": "Any of the kinds, gzipped."}
            },
            "text/csv": {"schema": {"type": "string", "description": "The first line names the columns."}},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class Rejection(BaseModel):
    line: int = Field(description="Counted from 1.")
    reason: str = Field(description="A stable code.", examples=["empty_answer"])
    message: str


class Difference(BaseModel):
    """A field in which a line differs from the pair that was there, which stays as it was."""

    model_config = ConfigDict(from_attributes=True)

    line: int
    field: str
    stored: str
    given: str


class ReportOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    recognised: str = Field(description="What the columns were read as, in one sentence.")
    columns: dict[str, dict[str, int]] = Field(
        description="For each column the number of lines by what it became; `left_out` where it wasn't used.",
        examples=[{"question": {"prompt": 12}, "score": {"left_out": 12}}],
    )
    notes: dict[str, int] = Field(description="What was done that a line doesn't say by itself, and how often.")
    differences: list[Difference] = Field(description="The first hundred.")


class ImportOut(BaseModel):
    """Each pair of a line was added or was there already (`duplicates`), or the line was rejected; a line has several pairs
    where it has more than two answers. `judged` of the pairs came with a judgment that is new; `filled` of the duplicates
    brought fields that were missing."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    filename: str
    state: ImportState
    lines: int
    added: int
    judged: int
    duplicates: int
    filled: int
    rejected: int
    mapping: dict[str, str] = Field(description="What a person said that columns become, for this file or one like it.")
    report: ReportOut
    rejections: list[Rejection] = Field(description="The first thousand.")
    error: str = Field(description="Why the file couldn't be read to its end, if so.")
    started_at: datetime
    finished_at: datetime | None


class ImportBroken(Invalid):
    """The file couldn't be read to its end, or nothing of it was accepted; `import_` in the details has the counts."""

    code = "import_broken"


class Body(io.RawIOBase):
    """A request's body as a file for a thread: each read waits for the next chunk, so nothing piles up."""

    def __init__(self, request: Request) -> None:
        self._chunks = request.stream()

    def read(self, size: int = -1) -> bytes:
        """The next chunk, whatever its size; empty at the end. OSError where the sender is gone."""
        try:
            while not (chunk := from_thread.run(self._chunks.__anext__)):
                pass
            return chunk
        except StopAsyncIteration:
            return b""
        except ClientDisconnect as error:
            raise OSError("the sender went away") from error


@router.post("/projects/{slug}/import", responses=problems(404), openapi_extra=BODY)
async def import_pairs(
    slug: Slug,
    request: Request,
    here: ApiLeadUploaderDep,
    engine: EngineDep,
    settings: SettingsDep,
    places: ImportPlacesDep,
    filename: str = Query("", max_length=255),
    columns: list[Annotated[str, StringConstraints(max_length=120)]] = Query(
        [],
        alias="map",
        max_length=40,  # with all of them encoded, as much as an address holds
        description="`COLUMN=ROLE`, what a column becomes; kept for the next file with these columns.",
        examples=[["question=prompt"]],
    ),
) -> ImportOut:
    """Add pairs from JSON Lines, JSON, CSV, TSV or Parquet, gzipped or not: `curl --data-binary @FILE`.

    Forms: `prompt` with `responses`, or with `response_a` and `response_b`, waiting for judgment; `prompt`, `chosen` and
    `rejected`, or `chosen` and `rejected` that begin alike, judged already; and those of other programs and data sets that
    docs/import.md lists. Prompts and answers are strings or messages. Good lines stay whatever becomes of others; content
    that is there already counts as duplicate. 422 where nothing is added and nothing was there.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Invalid("The body is a form.", "Send the file itself as the body: curl --data-binary @FILE.")
    given = mapping.parsed(columns)
    mapping.checked(given)
    give_back = places.take(here.user.id)
    try:
        # A thread of its own: it waits for the sender, and other requests don't need it.
        row = await anyio.to_thread.run_sync(
            _load, engine, here, Body(request), filename, settings, given, limiter=CapacityLimiter(1)
        )
    finally:
        give_back()
    told = ImportOut.model_validate(row)
    if row.state is ImportState.FAILED:
        raise ImportBroken(row.error, "", import_=told.model_dump(mode="json"))
    return told


def _load(engine: Engine, here: Here, body: Body, filename: str, settings: Settings, given: dict[str, str]) -> Import:
    return load.load(
        engine,
        project_id=here.project.id,
        user_id=here.user.id,
        stream=cast(BinaryIO, body),
        filename=filename,
        settings=settings,
        given=given,
    )


@router.get("/projects/{slug}/imports", responses=problems(404))
def list_imports(slug: Slug, session: SessionDep, here: ApiLeadDep) -> list[ImportOut]:
    """A project's latest fifty imports, the newest first."""
    return [ImportOut.model_validate(row) for row in load.listing(session, project=here.project)]


@router.get("/imports/{import_id}", responses=problems(404))
def show_import(import_id: RowId, session: SessionDep, _: ApiLeadDep) -> ImportOut:
    """One import, also while it runs."""
    return ImportOut.model_validate(load.get(session, import_id))


@router.post("/imports/{import_id}/stop", responses=problems(404))
def stop_import(import_id: RowId, session: SessionDep, here: ApiLeadDep) -> ImportOut:
    """Ask a running import to end after the lines that it is at; what was stored stays."""
    row = load.get(session, import_id)
    load.stop(session, row=row, by=here.user)
    return ImportOut.model_validate(row)
