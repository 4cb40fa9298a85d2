"""What a project leaves out of training, and undoing an import."""

from datetime import datetime

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StrictInt

from app.db import after_commit
from app.errors import Invalid
from app.models import ExclusionKind
from app.routes.api.collecting.projects import Slug
from app.services.collecting import exclusions
from app.services.collecting.exclusions import LONGEST_REASON, Told
from app.services.collecting.imports import load
from app.services.loop.removal import imports
from app.services.loop.removal.imports import Settle
from app.web.deps import ApiLeadDep, RowId, SessionDep
from app.web.problems import problems

router = APIRouter(tags=["exclusions"])


class NewExclusion(BaseModel):
    kind: ExclusionKind = Field(description="What is left out. An import is undone by `POST imports/{id}/undo`.")
    subject: StrictInt = Field(ge=1, le=2**31 - 1, description="Its id: a comparison's, a judgment's or a user's.")
    reason: str = Field("", max_length=LONGEST_REASON)


class Reason(BaseModel):
    reason: str = Field("", max_length=LONGEST_REASON)


class ExclusionOut(BaseModel):
    """In force until `lifted_at`."""

    id: int
    kind: ExclusionKind
    subject: int
    reason: str
    by: str
    at: datetime
    lifted_by: str
    lifted_at: datetime | None
    settled: bool = Field(description="False while an import's pairs are still being removed or put back.")
    removed: int = Field(description="Of an undone import: pairs that nobody had judged, which are gone.")

    @classmethod
    def of(cls, told: Told) -> "ExclusionOut":
        row = told.row
        return cls(
            id=row.id,
            kind=row.kind,
            subject=told.subject_id,
            reason=row.reason,
            by=told.by,
            at=row.at,
            lifted_by=told.lifted_by,
            lifted_at=row.lifted_at,
            settled=row.settled,
            removed=row.removed,
        )


class Exclusions(BaseModel):
    items: list[ExclusionOut]
    page: int
    pages: int
    total: int


@router.get("/projects/{slug}/exclusions", responses=problems(404))
def list_exclusions(
    slug: Slug, session: SessionDep, here: ApiLeadDep, page: int = Query(1, ge=1, le=1_000_000)
) -> Exclusions:
    """What the project leaves or left out, the newest first."""
    rows = exclusions.listing(session, project=here.project, page=page)
    items = [ExclusionOut.of(one) for one in rows.items]
    return Exclusions(items=items, page=rows.number, pages=rows.pages, total=rows.total)


@router.post("/projects/{slug}/exclusions", status_code=201, responses=problems(404, 409))
def exclude(slug: Slug, body: NewExclusion, session: SessionDep, here: ApiLeadDep) -> ExclusionOut:
    """Leave a pair, a judgment or all votes of a person out of new snapshots. A pair isn't asked about any more. 409 where it is
    left out already."""
    if body.kind is ExclusionKind.IMPORT:
        raise Invalid("An import is undone, not left out.", "POST imports/{id}/undo.", field="kind")
    row = exclusions.exclude(
        session, project=here.project, kind=body.kind, subject_id=body.subject, by=here.user, reason=body.reason
    )
    after_commit(session, Settle(row.id))
    return ExclusionOut.of(exclusions.told(session, row=row))


@router.get("/exclusions/{exclusion_id}", responses=problems(404))
def show_exclusion(exclusion_id: RowId, session: SessionDep, _: ApiLeadDep) -> ExclusionOut:
    """One exclusion."""
    return ExclusionOut.of(exclusions.told(session, row=exclusions.get(session, exclusion_id)))


@router.post("/exclusions/{exclusion_id}/lift", responses=problems(404, 409))
def lift(exclusion_id: RowId, session: SessionDep, here: ApiLeadDep) -> ExclusionOut:
    """Put back what was left out. Pairs that an undone import removed are gone for good."""
    row = exclusions.get(session, exclusion_id)
    exclusions.lift(session, project=here.project, row=row, by=here.user)
    after_commit(session, Settle(row.id))
    return ExclusionOut.of(exclusions.told(session, row=row))


@router.post("/imports/{import_id}/undo", responses=problems(404, 409))
def undo(import_id: RowId, session: SessionDep, here: ApiLeadDep, body: Reason = Reason()) -> ExclusionOut:
    """Undo an import: what nobody judged goes in the background (`settled`), judged pairs stay and are left out. Votes that
    the file itself brought don't count, unless a snapshot may hold them."""
    row = load.of_project(session, here.project, import_id)
    made = imports.undo(session, row=row, by=here.user, reason=body.reason)
    after_commit(session, Settle(made.id))
    return ExclusionOut.of(exclusions.told(session, row=made))
