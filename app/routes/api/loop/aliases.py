"""Aliases over the API: what each means, its history, moves, approvals and rules."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.models import Alias, AliasEvent, Deed, NeededVerdict
from app.routes.api.collecting.projects import Slug
from app.services.loop import aliases
from app.web.deps import ApiEngineerDep, Here, SessionDep
from app.web.problems import problems

router = APIRouter(tags=["aliases"])
Name = Annotated[str, Path(max_length=40, description="The alias: production, candidate …")]
Seen = Annotated[
    str, Query(max_length=40, description="`seen` as you read it: 409 where somebody has changed the alias since.")
]


class AliasOut(BaseModel):
    """What a name means now, what a move of it needs, and a move that waits for approval."""

    name: str
    checkpoint_id: int | None
    moved_at: datetime | None
    needs_verdict: NeededVerdict
    needs_approval: bool
    asked_checkpoint_id: int | None = Field(description="The checkpoint of a move that waits for another person.")
    asked_by: str | None
    asked_at: datetime | None
    asked_why: str
    seen: str = Field(description="Changes with what it means and with the move that waits.")

    @classmethod
    def of(cls, row: Alias) -> "AliasOut":
        return cls(
            name=row.name, checkpoint_id=row.checkpoint_id, moved_at=row.moved_at, needs_verdict=row.needs_verdict,
            needs_approval=row.needs_approval, asked_checkpoint_id=row.asked_id, asked_at=row.asked_at, asked_why=row.asked_why,
            seen=row.seen,
            asked_by=row.asked_by.username if row.asked_by_id and row.asked_by else None,
        )  # fmt: skip


class EventOut(BaseModel):
    at: datetime
    deed: Deed
    checkpoint_id: int | None
    previous_id: int | None
    evaluation_id: int | None = Field(description="The verdict that justified it.")
    by: str | None
    asked_by: str | None
    why: str

    @classmethod
    def of(cls, row: AliasEvent) -> "EventOut":
        return cls(
            at=row.at, deed=row.deed, checkpoint_id=row.checkpoint_id, previous_id=row.previous_id,
            evaluation_id=row.evaluation_id, by=row.user.username if row.user else None,
            asked_by=row.asked_by.username if row.asked_by else None, why=row.why,
        )  # fmt: skip


class HistoryOut(AliasOut):
    history: list[EventOut] = Field(description="The latest first, 50 at most.")


class MoveIn(BaseModel):
    checkpoint_id: int = Field(ge=1, le=2**31 - 1)
    why: str = Field("", max_length=500)


class WhyIn(BaseModel):
    why: str = Field("", max_length=500)


class RuleIn(BaseModel):
    needs_verdict: NeededVerdict = NeededVerdict.NONE
    needs_approval: bool = False


@router.get("/projects/{slug}/aliases", responses=problems(404))
def list_aliases(slug: Slug, session: SessionDep, here: ApiEngineerDep) -> list[AliasOut]:
    """A project's aliases by name."""
    return [AliasOut.of(row) for row in aliases.listing(session, project=here.project)]


@router.get("/projects/{slug}/aliases/{name}", responses=problems(404))
def show(slug: Slug, name: Name, session: SessionDep, here: ApiEngineerDep) -> HistoryOut:
    """One alias with its history."""
    row = aliases.get(session, project=here.project, name=name)
    events = [EventOut.of(event) for event in aliases.history(session, alias=row)]
    return HistoryOut(**AliasOut.of(row).model_dump(), history=events)


@router.put("/projects/{slug}/aliases/{name}", responses=problems(404, 409))
def move(slug: Slug, name: Name, body: MoveIn, session: SessionDep, here: ApiEngineerDep) -> AliasOut:
    """Move it to a checkpoint. 409 (`gate_closed`) where its rule wants a verdict that isn't there; where the rule wants an
    approval, the answer names the move that waits."""
    aliases.move(session, project=here.project, name=name, checkpoint_id=body.checkpoint_id, by=here.user, why=body.why)
    return AliasOut.of(_again(session, here, name))


@router.post("/projects/{slug}/aliases/{name}/approve", responses=problems(404, 409))
def approve(slug: Slug, name: Name, session: SessionDep, here: ApiEngineerDep, seen: Seen = "") -> AliasOut:
    """Carry out the move that somebody else asked for."""
    aliases.approve(session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user)
    return AliasOut.of(_again(session, here, name))


@router.post("/projects/{slug}/aliases/{name}/decline", responses=problems(404, 409))
def decline(
    slug: Slug, name: Name, session: SessionDep, here: ApiEngineerDep, body: WhyIn = WhyIn(), seen: Seen = ""
) -> AliasOut:
    """Drop the move that waits."""
    aliases.decline(
        session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user, why=body.why
    )
    return AliasOut.of(_again(session, here, name))


@router.post("/projects/{slug}/aliases/{name}/back", responses=problems(404, 409))
def back(
    slug: Slug, name: Name, session: SessionDep, here: ApiEngineerDep, body: WhyIn = WhyIn(), seen: Seen = ""
) -> AliasOut:
    """Back to the checkpoint before, at once and whatever the rule."""
    aliases.back(
        session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user, why=body.why
    )
    return AliasOut.of(_again(session, here, name))


@router.delete("/projects/{slug}/aliases/{name}", responses=problems(404, 409))
def remove(slug: Slug, name: Name, session: SessionDep, here: ApiEngineerDep, seen: Seen = "") -> AliasOut:
    """Let it mean no checkpoint. Its history and rule stay."""
    aliases.remove(session, alias=aliases.get(session, project=here.project, name=name, seen=seen), by=here.user)
    return AliasOut.of(_again(session, here, name))


@router.put("/projects/{slug}/aliases/{name}/rule", responses=problems(404, 409))
def set_rule(slug: Slug, name: Name, body: RuleIn, session: SessionDep, here: ApiEngineerDep) -> AliasOut:
    """Change what a move of it needs."""
    aliases.set_rule(session, project=here.project, name=name, by=here.user, **body.model_dump())
    return AliasOut.of(_again(session, here, name))


def _again(session: Session, here: Here, name: str) -> Alias:
    """As it is now, with who asked."""
    return aliases.get(session, project=here.project, name=name)
