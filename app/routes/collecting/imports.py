"""Import in the browser: upload a file, then watch its lines being read, then see what became of them."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.config import Settings
from app.db import read_session
from app.models import Import, ImportState, Project
from app.services.collecting import projects
from app.services.collecting.imports import load as imports
from app.web.bodies import ImportPlacesDep
from app.web.deps import EngineDep, EngineerDep, RowId, SessionDep, SettingsDep, UploaderDep
from app.web.templating import is_fragment, redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class UploadPage:
    project: Project
    imports: list[Import]
    limit: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ImportPage:
    """`reasons` counts the reported rejections by reason, the most frequent first."""

    project: Project
    row: Import
    running: bool
    stalled: bool
    reasons: list[tuple[str, int]] = field(default_factory=list)


@router.get("/projects/{slug}/import")
def ask(slug: str, request: Request, session: SessionDep, user: EngineerDep, settings: SettingsDep) -> Response:
    project = projects.get(session, slug)
    return render(
        request,
        "collecting/imports/new.html",
        UploadPage(project, imports.listing(session, project=project), settings.max_import_bytes),
    )


@router.post("/projects/{slug}/import")
async def upload(
    slug: str, request: Request, user: UploaderDep, engine: EngineDep, settings: SettingsDep, places: ImportPlacesDep
) -> Response:
    """Answers as soon as the first lines are read; the import's own page follows the rest."""
    project = await run_in_threadpool(_project, engine, slug)
    with ExitStack() as until_answered:
        give_back = places.take(user.id)
        until_answered.callback(give_back)
        async with request.form(max_files=1, max_fields=1) as form:
            sent = form.get("file")
            if not isinstance(sent, UploadFile) or not sent.filename or not sent.size:
                return await run_in_threadpool(_ask_again, request, engine, project, settings)
            stream = await run_in_threadpool(_own, sent.file)
            until_answered.pop_all()  # the thread that reads the file has the place from here on
            first = _start(engine, project.id, user.id, stream, sent.filename, settings, give_back)
    import_id = await asyncio.wrap_future(first)
    return redirect(f"/imports/{import_id}")


def _project(engine: Engine, slug: str) -> Project:
    with read_session(engine) as session:
        return projects.get(session, slug)


def _ask_again(request: Request, engine: Engine, project: Project, settings: Settings) -> Response:
    with read_session(engine) as session:
        earlier = imports.listing(session, project=project)
    page = UploadPage(project, earlier, settings.max_import_bytes, "Choose a file that isn't empty.")
    return render(request, "collecting/imports/new.html", page, status=422)


def _own(file: BinaryIO) -> BinaryIO:
    """The uploaded file as one that outlives the request, without copying it."""
    if isinstance(file, SpooledTemporaryFile):
        file.rollover()
    file.seek(0)
    return open(os.dup(file.fileno()), "rb")


def _start(
    engine: Engine,
    project_id: int,
    user_id: int,
    stream: BinaryIO,
    filename: str,
    settings: Settings,
    give_back: Callable[[], None],
) -> Future[int]:
    """Reads the file in a thread of its own. The future is the import's id, once there is something to show."""
    first: Future[int] = Future()

    def told(row: Import) -> None:
        if not first.done():
            first.set_result(row.id)

    def load() -> None:
        try:
            with stream:
                told(
                    imports.load(
                        engine,
                        project_id=project_id,
                        user_id=user_id,
                        stream=stream,
                        filename=filename,
                        settings=settings,
                        progress=told,
                    )
                )
        except BaseException as error:
            if first.done():
                raise
            first.set_exception(error)
        finally:
            give_back()

    # Daemon: a server that is stopped does not wait; the import then says that it was interrupted and can be run again.
    threading.Thread(target=load, name=f"import into project {project_id}", daemon=True).start()
    return first


@router.get("/imports/{import_id}")
def show(import_id: RowId, request: Request, session: SessionDep, user: EngineerDep) -> Response:
    row = imports.get(session, import_id)
    stalled = imports.is_stalled(row)
    reasons = Counter(rejection["reason"] for rejection in row.rejections).most_common()
    page = ImportPage(
        session.get_one(Project, row.project_id),
        row,
        row.state is ImportState.RUNNING and not stalled,
        stalled,
        reasons,
    )
    return render(request, "collecting/imports/show.html", page, block="progress" if is_fragment(request) else None)
