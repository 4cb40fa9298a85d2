"""Checkpoints: the list, one checkpoint's page with its whole chain, and its files."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.models import Alias, Checkpoint, EvaluationState, ExportFormat, Project
from app.paging import Page
from app.routes.loop import lineage, verdict_panel
from app.routes.loop.lineage import LineagePanel
from app.routes.training import run_page
from app.routes.training.export_panel import Panel, panel
from app.routes.training.run_page import Setting
from app.services.loop import aliases, verdicts
from app.services.loop.verdict import card
from app.services.loop.verdict.shape import Kept
from app.services.training import checkpoints, exports, loading, outcome
from app.services.training.outcome import Verdict
from app.storage import Storage
from app.web.deps import EngineDep, EngineerDep, EngineerUploaderDep, RowId, SessionDep, SettingsDep, StorageDep
from app.web.downloads import send_checkpoint_archive, send_checkpoint_file, send_export_archive, send_export_file
from app.web.templating import is_fragment, redirect, render

router = APIRouter()

MOST_VERDICTS = 3  # of a checkpoint's page; the others are a link away


@dataclass(frozen=True, slots=True)
class CheckpointsPage:
    project: Project
    page: Page[Checkpoint]
    verdicts: dict[int, Verdict]
    sizes: dict[int, int]


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    """`note`: what must be said of the base model's weights. `card`: the model card's Markdown without its head."""

    project: Project
    checkpoint: Checkpoint
    chain: dict[str, Any]
    verdict: Verdict
    size: int
    archive: str
    snippet: str
    is_adapter: bool
    note: str
    card: str
    configuration: list[tuple[str, list[Setting]]]
    exports: Panel
    panels: list[verdict_panel.Panel]
    aliases: list[Alias]
    origins: LineagePanel


@router.get("/projects/{slug}/checkpoints")
def listing(request: Request, session: SessionDep, here: EngineerDep, page: int = 1) -> Response:
    project = here.project
    checkpoints_page = checkpoints.listing(session, project=project, page=page, size=25)
    told = {row.id: outcome.verdict(row.metrics) for row in checkpoints_page.items}
    sizes = {row.id: checkpoints.size(row) for row in checkpoints_page.items}
    return render(request, "training/checkpoints/list.html", CheckpointsPage(project, checkpoints_page, told, sizes))


@router.get("/checkpoints/{checkpoint_id}")
def show(
    checkpoint_id: RowId,
    request: Request,
    engine: EngineDep,
    here: EngineerUploaderDep,
    settings: SettingsDep,
    storage: StorageDep,
) -> Response:
    with read_session(engine) as session:
        evaluated = [row.id for row in verdicts.of_checkpoint(session, checkpoint_id=checkpoint_id)[:MOST_VERDICTS]]
    told = [verdicts.current(engine, evaluation_id) for evaluation_id in evaluated]
    told.sort(key=lambda one: one.evaluation.state is EvaluationState.VOID)  # what counts comes first
    with read_session(engine) as session:
        return _page(request, session, checkpoint_id, settings, storage, told)


def _page(
    request: Request, session: Session, checkpoint_id: int, settings: Settings, storage: Storage, told: list[Kept]
) -> Response:
    row = checkpoints.get(session, checkpoint_id)
    is_adapter = loading.is_adapter(row)
    base = row.provenance.get("base_model") or {}
    folder = checkpoints.folder_name(row)
    return render(
        request,
        "training/checkpoints/show.html",
        CheckpointPage(
            project=row.run.job.project,
            checkpoint=row,
            chain=row.provenance,
            verdict=outcome.verdict(row.metrics),
            size=checkpoints.size(row),
            archive=f"{folder}.tar",
            snippet=loading.snippet(row, folder=folder, settings=settings),
            is_adapter=is_adapter,
            note=str(base.get("note") or ""),
            card=card.whole(row, storage, told, front_matter=False),
            configuration=run_page.configuration(row.provenance.get("config") or {}),
            exports=panel(session, checkpoint=row, settings=settings, storage=storage, is_adapter=is_adapter),
            aliases=aliases.of_checkpoint(session, checkpoint_id=checkpoint_id),
            panels=[verdict_panel.panel(one, row.run.job.project) for one in told],
            origins=lineage.of_checkpoint(session, row),
        ),
        block="exports" if is_fragment(request) else None,
    )


@router.post("/checkpoints/{checkpoint_id}/exports")
def export(
    checkpoint_id: RowId,
    engine: EngineDep,
    here: EngineerUploaderDep,
    settings: SettingsDep,
    storage: StorageDep,
    format: Annotated[ExportFormat, Form()],
) -> Response:
    """Queue an export, or find the one that is there. Files are read before the write transaction begins."""
    with read_session(engine) as session:
        checkpoint = checkpoints.get(session, checkpoint_id)
    refused = exports.refusals(settings, storage, checkpoint=checkpoint)
    try:
        with write_session(engine) as session:
            by = here.within(session).user
            exports.create(session, checkpoint=checkpoint, format=format, by=by, refused=refused)
    except exports.CannotExport as reason:
        return redirect(f"/checkpoints/{checkpoint_id}", str(reason))
    return redirect(f"/checkpoints/{checkpoint_id}#exports")


@router.head("/checkpoints/{checkpoint_id}/files/{name:path}")
@router.get("/checkpoints/{checkpoint_id}/files/{name:path}")
def download(
    checkpoint_id: RowId, name: str, request: Request, session: SessionDep, _: EngineerDep, storage: StorageDep
) -> Response:
    return send_checkpoint_file(request, session, storage, checkpoint_id=checkpoint_id, name=name)


@router.head("/checkpoints/{checkpoint_id}/archive.tar")
@router.get("/checkpoints/{checkpoint_id}/archive.tar")
def archive(
    checkpoint_id: RowId, request: Request, session: SessionDep, _: EngineerDep, storage: StorageDep
) -> Response:
    return send_checkpoint_archive(request, session, storage, checkpoint_id=checkpoint_id)


@router.head("/checkpoints/{checkpoint_id}/exports/{format}/files/{name}")
@router.get("/checkpoints/{checkpoint_id}/exports/{format}/files/{name}")
def download_export(
    checkpoint_id: RowId,
    format: str,
    name: str,
    request: Request,
    session: SessionDep,
    _: EngineerDep,
    storage: StorageDep,
) -> Response:
    return send_export_file(request, session, storage, checkpoint_id=checkpoint_id, format=format, name=name)


@router.head("/checkpoints/{checkpoint_id}/exports/{format}/archive.tar")
@router.get("/checkpoints/{checkpoint_id}/exports/{format}/archive.tar")
def export_archive(
    checkpoint_id: RowId, format: str, request: Request, session: SessionDep, _: EngineerDep, storage: StorageDep
) -> Response:
    return send_export_archive(request, session, storage, checkpoint_id=checkpoint_id, format=format)
