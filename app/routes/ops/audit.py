"""The audit trail, for admins."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import AuditEntry
from app.paging import Page
from app.services.accounts import audit
from app.web.deps import AdminDep, SessionDep
from app.web.templating import render

router = APIRouter(prefix="/audit")


@dataclass(frozen=True)
class AuditPage:
    """`page` holds entries with the user name of who did it. `who`, `action`, `target`: the filters as given."""

    page: Page[tuple[AuditEntry, str | None]]
    actions: list[str]
    who: str
    action: str
    target: str


@router.get("")
def show(
    request: Request,
    session: SessionDep,
    user: AdminDep,
    who: str = "",
    action: str = "",
    target: str = "",
    page: int = 1,
) -> Response:
    entries = audit.listing(session, username=who, action=action, target=target, page=page)
    return render(request, "ops/audit/show.html", AuditPage(entries, audit.actions(session), who, action, target))
