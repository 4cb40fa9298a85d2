"""A snapshot: what was frozen, by which rule, its files, and what was trained on it."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.db import read_session
from app.models import Project, Snapshot, TrainingRun
from app.routes.loop import lineage
from app.routes.loop.lineage import LineagePanel
from app.routes.training.freezings import begin
from app.services.datasets import snapshots
from app.services.datasets.rules import LEFT_OUT
from app.services.training import freezings, runs
from app.web.archive import stored
from app.web.deps import (
    EngineDep,
    EngineerDep,
    LeadDep,
    LeadUploaderDep,
    RowId,
    SessionDep,
    StorageDep,
    client_address,
)
from app.web.downloads import send
from app.web.templating import redirect, render

router = APIRouter()


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    project: Project
    snapshot: Snapshot
    runs: list[TrainingRun]
    pairs: dict[str, int]
    left_out_words: dict[str, str]
    origins: LineagePanel


@router.get("/snapshots/{snapshot_id}")
def show(snapshot_id: RowId, request: Request, session: SessionDep, here: LeadDep) -> Response:
    snapshot = snapshots.get(session, snapshot_id)
    trained = runs.listing(session, snapshot=snapshot).items
    pairs = {file.name: snapshots.pairs_in(snapshot, file.name) for file in snapshot.files}
    origins = lineage.of_snapshot(session, snapshot.id)
    page = SnapshotPage(snapshot.project, snapshot, trained, pairs, LEFT_OUT, origins)
    return render(request, "datasets/snapshots/show.html", page)


@router.post("/projects/{slug}/snapshots")
def freeze(request: Request, here: LeadUploaderDep, engine: EngineDep, storage: StorageDep) -> Response:
    project, user = here.project, here.user
    with read_session(engine) as session:
        if freezings.is_large(session, project):
            return begin(request, engine, storage, here)
        newest = snapshots.listing(session, project=project)[:1]
    snapshot = snapshots.freeze(
        engine, project=project, by_id=user.id, storage=storage, address=client_address(request)
    )
    known = newest and newest[0].number >= snapshot.number
    flash = (
        f"Nothing has changed since snapshot {snapshot.number}." if known else f"Snapshot {snapshot.number} was frozen."
    )
    return redirect(f"/snapshots/{snapshot.id}", flash, "info" if known else "good")


@router.get("/snapshots/{snapshot_id}/files/{name}")
def download(
    snapshot_id: RowId, name: str, request: Request, session: SessionDep, _: EngineerDep, storage: StorageDep
) -> Response:
    snapshot = snapshots.get(session, snapshot_id)
    file = snapshots.file(snapshot, name)
    return send(
        request,
        storage,
        stored(file),
        media_type="application/x-ndjson",
        filename=f"{snapshot.project.slug}-snapshot-{snapshot.number}-{name}",
        modified=snapshot.created_at,
    )
