"""Import in the browser: upload a file, see how its first rows are read and say what its columns become, then watch its
lines being read, then see what became of them."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Gone
from app.models import ExclusionKind, Import, ImportState, Project, User
from app.services.collecting import exclusions
from app.services.collecting.exclusions import Told
from app.services.collecting.imports import drafts, mapping, preview
from app.services.collecting.imports import load as imports
from app.services.collecting.imports.preview import Preview
from app.services.collecting.imports.reading.told import NOTES
from app.web.bodies import ImportPlacesDep
from app.web.deps import EngineDep, LeadDep, LeadUploaderDep, RowId, SessionDep, SettingsDep
from app.web.templating import is_fragment, redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class UploadPage:
    project: Project
    imports: list[Import]
    undone: frozenset[int]
    limit: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class DraftPage:
    """A file before anything of it is stored. `preview` is None where the file is gone."""

    project: Project
    row: Import
    preview: Preview | None
    roles: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ImportPage:
    """`reasons` counts the reported rejections by reason, the most frequent first. `left_out`: columns that no line used,
    with how many lines had them. `notes`: what else was done, in words."""

    project: Project
    row: Import
    running: bool
    stalled: bool
    quiet: bool
    reasons: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    undone: Told | None = None


@router.get("/projects/{slug}/import")
def ask(request: Request, session: SessionDep, here: LeadDep, settings: SettingsDep) -> Response:
    project = here.project
    return render(
        request,
        "collecting/imports/new.html",
        _upload_page(session, project, settings),
    )


@router.post("/projects/{slug}/import")
async def upload(
    request: Request, here: LeadUploaderDep, engine: EngineDep, settings: SettingsDep, places: ImportPlacesDep
) -> Response:
    """Keeps the file as a draft, whose page shows how it would be read."""
    project, user = here.project, here.user
    with ExitStack() as until_answered:
        until_answered.callback(places.take(user.id))
        async with request.form(max_files=1, max_fields=1) as form:
            sent = form.get("file")
            if not isinstance(sent, UploadFile) or not sent.filename or not sent.size:
                return await run_in_threadpool(_ask_again, request, engine, project, settings)
            row = await run_in_threadpool(_draft, engine, settings, project, user.id, sent.file, sent.filename)
    return redirect(f"/imports/{row.id}")


def _upload_page(session: Session, project: Project, settings: Settings, error: str = "") -> UploadPage:
    undone = exclusions.in_force(session, project_id=project.id).imports
    return UploadPage(project, imports.listing(session, project=project), undone, settings.max_import_bytes, error)


def _ask_again(request: Request, engine: Engine, project: Project, settings: Settings) -> Response:
    with read_session(engine) as session:
        page = _upload_page(session, project, settings, "Choose a file that isn't empty.")
    return render(request, "collecting/imports/new.html", page, status=422)


def _draft(engine: Engine, settings: Settings, project: Project, user_id: int, file: BinaryIO, filename: str) -> Import:
    file.seek(0)
    token = drafts.keep(settings, file)  # before the transaction: it may take minutes
    with write_session(engine) as session:
        return drafts.create(
            session, project=project, by=session.get_one(User, user_id), filename=filename, upload=token
        )


@router.post("/imports/{import_id}/columns")
async def say(
    import_id: RowId, request: Request, _: LeadUploaderDep, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Notes what columns become, and shows the rows anew."""
    row = await run_in_threadpool(_say, engine, import_id, await _given(request))
    if not is_fragment(request) or row.state is not ImportState.DRAFT:
        return redirect(f"/imports/{import_id}")
    page = await run_in_threadpool(_draft_page, engine, settings, row)
    return render(request, "collecting/imports/draft.html", page, block="draft")


def _say(engine: Engine, import_id: int, given: dict[str, str]) -> Import:
    with write_session(engine) as session:
        row = imports.get(session, import_id)
        if row.state is ImportState.DRAFT:
            drafts.say(session, row=row, given=given)
        return row


@router.post("/imports/{import_id}/start")
async def start(
    import_id: RowId,
    request: Request,
    here: LeadUploaderDep,
    engine: EngineDep,
    settings: SettingsDep,
    places: ImportPlacesDep,
) -> Response:
    """Reads the file in a thread of its own. A second click finds it started."""
    given = await _given(request)
    row = await run_in_threadpool(_row, engine, import_id)
    if row.state is ImportState.DRAFT:
        mapping.checked(given := given or row.mapping)
        give_back = places.take(here.user.id)
        try:
            stream = await run_in_threadpool(drafts.open_upload, settings, row)
        except BaseException:
            give_back()
            raise
        await _start(engine, row, here.user.id, stream, settings, given, give_back)
    return redirect(f"/imports/{import_id}")


@router.post("/imports/{import_id}/discard")
def discard(import_id: RowId, session: SessionDep, here: LeadDep, settings: SettingsDep) -> Response:
    row = imports.get(session, import_id)
    drafts.discard(session, settings=settings, row=row)
    return redirect(f"/projects/{here.project.slug}/import", "Discarded. Nothing of the file was stored.", "good")


@router.post("/imports/{import_id}/stop")
def stop(import_id: RowId, session: SessionDep, here: LeadDep) -> Response:
    imports.stop(session, row=imports.get(session, import_id), by=here.user)
    return redirect(f"/imports/{import_id}")


async def _given(request: Request) -> dict[str, str]:
    """What the form says of columns: `role:COLUMN` fields, of which an empty one leaves it to the file."""
    async with request.form(max_files=0, max_fields=1_000) as form:
        return {
            name.removeprefix("role:"): str(role) for name, role in form.items() if name.startswith("role:") and role
        }


def _row(engine: Engine, import_id: int) -> Import:
    with read_session(engine) as session:
        return imports.get(session, import_id)


async def _start(
    engine: Engine,
    row: Import,
    user_id: int,
    stream: BinaryIO,
    settings: Settings,
    given: dict[str, str],
    give_back: Callable[[], None],
) -> None:
    """Begins to read a draft's file; returns once the import runs, or somebody else's click made it run."""
    begun = threading.Event()

    def load() -> None:
        try:
            with stream:
                imports.load(
                    engine,
                    project_id=row.project_id,
                    user_id=user_id,
                    stream=stream,
                    filename=row.filename,
                    settings=settings,
                    given=given,
                    draft_id=row.id,
                    begun=begun.set,
                )
            drafts.forget(settings, row)
        except Conflict:
            pass  # a double click: the first one reads it
        finally:
            begun.set()
            give_back()

    # Daemon: a server that is stopped does not wait; the import then says that it was interrupted and can be run again.
    threading.Thread(target=load, name=f"import into project {row.project_id}", daemon=True).start()
    await run_in_threadpool(begun.wait)


@router.get("/imports/{import_id}")
def show(
    import_id: RowId, request: Request, session: SessionDep, here: LeadDep, engine: EngineDep, settings: SettingsDep
) -> Response:
    row = imports.get(session, import_id)
    if row.state is ImportState.DRAFT:
        return render(request, "collecting/imports/draft.html", _draft_page(engine, settings, row))
    stalled = imports.is_stalled(row)
    undone = exclusions.in_force_of(session, kind=ExclusionKind.IMPORT, subject_id=row.id)
    reasons = Counter(rejection["reason"] for rejection in row.rejections).most_common()
    page = ImportPage(
        here.project,
        row,
        row.state is ImportState.RUNNING and not stalled,
        stalled,
        imports.is_quiet(row),
        reasons,
        [(column, roles["left_out"]) for column, roles in row.report.columns.items() if roles.keys() == {"left_out"}],
        [f"{count:,} {NOTES[note]}" for note, count in row.report.notes.items() if note in NOTES],
        exclusions.told(session, row=undone) if undone else None,
    )
    return render(request, "collecting/imports/show.html", page, block="progress" if is_fragment(request) else None)


def _draft_page(engine: Engine, settings: Settings, row: Import) -> DraftPage:
    with read_session(engine) as session:
        project = session.get_one(Project, row.project_id)
    shown: Preview | None = None
    with suppress(Gone), drafts.open_upload(settings, row) as stream:
        shown = preview.look(engine, project_id=project.id, stream=stream, settings=settings, given=row.mapping)
    return DraftPage(project, row, shown, preview.ROLES)
