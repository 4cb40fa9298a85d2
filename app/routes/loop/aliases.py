"""Aliases: what each means, since when, by whom and why; moving one, approving, going back, and its rule."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.models import Alias, AliasEvent, NeededVerdict, Project
from app.services.loop import aliases
from app.web.deps import EngineerDep, RowId, SessionDep
from app.web.templating import redirect, render

router = APIRouter()
Why = Annotated[str, Form(max_length=2_000)]
Seen = Annotated[str, Form(max_length=40)]
DEEDS = {
    "asked": "asked for",
    "moved": "moved to",
    "declined": "declined",
    "back": "back to",
    "rule": "new rule:",
    "removed": "removed",
}


@dataclass(frozen=True, slots=True)
class Told:
    """An alias with its history, and whether the reader may approve what waits."""

    alias: Alias
    history: list[AliasEvent]
    may_approve: bool


@dataclass(frozen=True, slots=True)
class AliasesPage:
    project: Project
    aliases: list[Told]
    needed: list[tuple[str, str]]
    deeds: dict[str, str]


@router.get("/projects/{slug}/aliases")
def show(request: Request, session: SessionDep, here: EngineerDep) -> Response:
    told = [
        Told(row, aliases.history(session, alias=row, size=20), row.asked_by_id != here.user.id)
        for row in aliases.listing(session, project=here.project)
    ]
    needed = [("none", "nothing"), ("not_worse", "not worse, or better"), ("better", "better")]
    return render(request, "loop/aliases/show.html", AliasesPage(here.project, told, needed, DEEDS))


@router.post("/checkpoints/{checkpoint_id}/aliases")
def move(
    checkpoint_id: RowId,
    session: SessionDep,
    here: EngineerDep,
    name: Annotated[str, Form(max_length=200)],
    why: Why = "",
) -> Response:
    moved = aliases.move(
        session, project=here.project, name=name.strip(), checkpoint_id=checkpoint_id, by=here.user, why=why
    )
    url = f"/projects/{here.project.slug}/aliases"
    if moved.waits:
        return redirect(url, f"Asked for: “{moved.alias.name}” waits for somebody else's approval.")
    return redirect(url, f"“{moved.alias.name}” means checkpoint {checkpoint_id} now.", "good")


@router.post("/projects/{slug}/aliases/{name}/approve")
def approve(name: str, session: SessionDep, here: EngineerDep, seen: Seen = "") -> Response:
    alias = aliases.get(session, project=here.project, name=name, seen=seen)
    aliases.approve(session, alias=alias, by=here.user)
    return _shown(here.project, f"“{name}” means checkpoint {alias.checkpoint_id} now.", "good")


@router.post("/projects/{slug}/aliases/{name}/decline")
def decline(name: str, session: SessionDep, here: EngineerDep, seen: Seen = "", why: Why = "") -> Response:
    aliases.decline(
        session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user, why=why
    )
    return _shown(here.project, f"“{name}” stays where it is.")


@router.post("/projects/{slug}/aliases/{name}/back")
def back(name: str, session: SessionDep, here: EngineerDep, seen: Seen = "", why: Why = "") -> Response:
    alias = aliases.get(session, project=here.project, name=name, seen=seen)
    aliases.back(session, alias=alias, by=here.user, why=why)
    return _shown(here.project, f"“{name}” means checkpoint {alias.checkpoint_id} again.", "good")


@router.post("/projects/{slug}/aliases/{name}/remove")
def remove(name: str, session: SessionDep, here: EngineerDep, seen: Seen = "", why: Why = "") -> Response:
    aliases.remove(
        session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user, why=why
    )
    return _shown(here.project, f"“{name}” means no checkpoint now.")


@router.post("/projects/{slug}/aliases/{name}/rule")
def set_rule(
    name: str,
    session: SessionDep,
    here: EngineerDep,
    needs_verdict: Annotated[NeededVerdict, Form()] = NeededVerdict.NONE,
    needs_approval: Annotated[bool, Form()] = False,
) -> Response:
    aliases.set_rule(
        session,
        project=here.project,
        name=name,
        needs_verdict=needs_verdict,
        needs_approval=needs_approval,
        by=here.user,
    )
    return _shown(here.project, f"The rule of “{name}” was changed.", "good")


def _shown(project: Project, flash: str, kind: str = "info") -> Response:
    return redirect(f"/projects/{project.slug}/aliases", flash, kind)
