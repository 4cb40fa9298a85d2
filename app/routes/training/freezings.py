"""A freeze that goes on in the background: its page waits for it and leads to the snapshot, or to the run on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Engine

from app.db import read_session, write_session
from app.models import Freezing, FreezingState, Project, User
from app.services.training import freezings
from app.storage import Storage
from app.web.deps import Here, LeadDep, RowId, SessionDep, client_address
from app.web.templating import is_fragment, redirect, render

router = APIRouter()
SECONDS_WAITED = 2.0


@dataclass(frozen=True, slots=True)
class FreezingPage:
    project: Project
    row: Freezing
    is_stalled: bool
    again: str


@router.get("/projects/{slug}/freezings/{number}")
def show(number: RowId, request: Request, session: SessionDep, here: LeadDep) -> Response:
    row = freezings.get(session, project=here.project, freezing_id=number)
    again = f"/projects/{here.project.slug}/{'data' if row.run is None else 'train'}"
    page = FreezingPage(here.project, row, freezings.is_stalled(row), again)
    block = "freezing" if is_fragment(request) else None
    return render(request, "training/freezings/show.html", page, block=block)


def begin(
    request: Request,
    engine: Engine,
    storage: Storage,
    here: Here,
    rule: Any = None,
    run: Mapping[str, Any] | None = None,
) -> Response:
    """Starts a freeze in the background and leads to its page, or to what came of it where that took no time."""
    with write_session(engine) as session:
        by = session.get_one(User, here.user.id)
        row, is_new = freezings.begin(session, project=here.project, by=by, rule=rule, run=run)
    if is_new:
        freezings.start(engine, storage, row.id, address=client_address(request)).join(SECONDS_WAITED)
        with read_session(engine) as session:
            row = session.get_one(Freezing, row.id)
    if row.state is FreezingState.DONE:
        return redirect(f"/jobs/{row.job_id}" if row.job_id else f"/snapshots/{row.snapshot_id}")
    return redirect(f"/projects/{here.project.slug}/freezings/{row.id}")
