"""Imports: a file as the body of one request, read as it comes."""

import io
from datetime import datetime
from typing import Any, BinaryIO, cast

import anyio.to_thread
from anyio import CapacityLimiter, from_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine
from starlette.requests import ClientDisconnect

from app.config import Settings
from app.db import read_session
from app.errors import Invalid
from app.models import Import, ImportState
from app.routes.api.collecting.projects import Slug
from app.services.collecting import projects
from app.services.collecting.imports import load
from app.web.bodies import ImportPlacesDep
from app.web.deps import ApiEngineerDep, ApiUploaderDep, EngineDep, RowId, SessionDep, SettingsDep
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
                "schema": {"type": "string", "format": "binary", "description": "JSON Lines, gzipped."}
            },
        },
    }
}


class Rejection(BaseModel):
    line: int = Field(description="Counted from 1.")
    reason: str = Field(description="A stable code.", examples=["empty_answer"])
    message: str


class ImportOut(BaseModel):
    """`lines` = `added` + `duplicates` + `rejected`; `judged` of the pairs came with a judgment that is new."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    filename: str
    state: ImportState
    lines: int
    added: int
    judged: int
    duplicates: int
    rejected: int
    rejections: list[Rejection] = Field(description="The first thousand.")
    error: str = Field(description="Why the file couldn't be read to its end, if so.")
    started_at: datetime
    finished_at: datetime | None


class ImportBroken(Invalid):
    """The file couldn't be read to its end; `import_` in the details says what was read."""

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
    user: ApiUploaderDep,
    engine: EngineDep,
    settings: SettingsDep,
    places: ImportPlacesDep,
    filename: str = Query("", max_length=255),
) -> ImportOut:
    """Add pairs from JSON Lines, gzipped or not: `curl --data-binary @FILE`.

    Forms: `prompt` with `responses`, or with `response_a` and `response_b`, waiting for judgment; `prompt`, `chosen` and
    `rejected`, or `chosen` and `rejected` that begin alike, judged already. Prompts and answers are strings or messages.
    Good lines stay whatever becomes of others; content that is there already counts as duplicate.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Invalid("The body is a form.", "Send the file itself as the body: curl --data-binary @FILE.")
    give_back = places.take(user.id)
    try:
        # A thread of its own: it waits for the sender, and other requests don't need it.
        row = await anyio.to_thread.run_sync(
            _load, engine, slug, user.id, Body(request), filename, settings, limiter=CapacityLimiter(1)
        )
    finally:
        give_back()
    told = ImportOut.model_validate(row)
    if row.state is ImportState.FAILED:
        raise ImportBroken(row.error, "", import_=told.model_dump(mode="json"))
    return told


def _load(engine: Engine, slug: str, user_id: int, body: Body, filename: str, settings: Settings) -> Import:
    with read_session(engine) as session:
        project_id = projects.get(session, slug).id
    return load.load(
        engine,
        project_id=project_id,
        user_id=user_id,
        stream=cast(BinaryIO, body),
        filename=filename,
        settings=settings,
    )


@router.get("/projects/{slug}/imports", responses=problems(404))
def list_imports(slug: Slug, session: SessionDep, user: ApiEngineerDep) -> list[ImportOut]:
    """A project's latest fifty imports, the newest first."""
    return [ImportOut.model_validate(row) for row in load.listing(session, project=projects.get(session, slug))]


@router.get("/imports/{import_id}", responses=problems(404))
def show_import(import_id: RowId, session: SessionDep, user: ApiEngineerDep) -> ImportOut:
    """One import, also while it runs."""
    return ImportOut.model_validate(load.get(session, import_id))
