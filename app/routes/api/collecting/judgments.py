"""Judging over the API: the next pair, a judgment of it, undo. Nothing here says who wrote an answer."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from app.models import Judgment as JudgmentRow
from app.models import JudgmentSource
from app.routes.api.collecting.projects import Message, Slug
from app.services.accounts import access
from app.services.collecting import desk, judgments, listing
from app.services.collecting.desk import ShownPair
from app.services.collecting.judgments import LONGEST_RATIONALE
from app.web.deps import ApiCallerDep, ApiMemberDep, ApiNarrowUserDep, SessionDep
from app.web.problems import problems

router = APIRouter(tags=["judgments"])
SideChoice = Literal["left", "right", "tie", "both_bad", "skip"]
Flag = Literal["personal_data", "unsafe", "broken", "off_topic"]
TOKEN = Field(max_length=64, description="From the pair that is judged.", examples=["mP0sP5xqk1dUQ6k1b2m9YQxCw3a8rT7v"])


class JudgmentOut(BaseModel):
    id: int
    choice: SideChoice
    strength: int | None
    rationale: str
    flags: list[str]
    submitted_at: datetime
    late: bool = Field(description="It came after the pair had been given to somebody else; it is kept all the same.")
    supersedes_id: int | None = Field(description="The judgment of yours that this one replaces.")

    @classmethod
    def of(cls, row: JudgmentRow) -> "JudgmentOut":
        return cls(
            id=row.id,
            choice=judgments.side_of(row),
            strength=row.strength,
            rationale=row.rationale,
            flags=row.flags,
            submitted_at=row.submitted_at,
            late=row.late,
            supersedes_id=row.supersedes_id,
        )


class PairOut(BaseModel):
    token: str = Field(description="Send it with the judgment.")
    prompt: list[Message]
    left: str
    right: str
    leased_until: datetime | None = Field(
        description="Until then nobody else gets this place; a later judgment is kept too. "
        "None for a pair that is judged again."
    )
    guideline_version: int
    previous: JudgmentOut | None = Field(description="The judgment that another one with this token replaces.")

    @classmethod
    def of(cls, pair: ShownPair) -> "PairOut":
        return cls(
            token=pair.token,
            prompt=[Message(**message) for message in pair.prompt],
            left=pair.left,
            right=pair.right,
            leased_until=pair.leased_until,
            guideline_version=pair.guideline_version,
            previous=JudgmentOut.of(pair.previous) if pair.previous else None,
        )


class JudgmentIn(BaseModel):
    token: str = TOKEN
    choice: SideChoice
    strength: StrictInt | None = Field(
        None, ge=1, le=3, description="How much better: 1 slightly, 2 clearly, 3 far; with left and right."
    )
    rationale: str = Field("", max_length=LONGEST_RATIONALE, description="Why, in one's own words.")
    flags: list[Flag] = Field([], max_length=8, description="What makes the pair itself unfit, if anything.")


class Release(BaseModel):
    token: str = TOKEN


class ProgressOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    today: int = Field(description="Your judgments since midnight, in the server's time zone.")
    goal: int
    mine: int
    done: int
    wanted: int
    waiting_for_me: int


class HistoryEntry(BaseModel):
    judgment: JudgmentOut
    prompt: list[Message]
    left: str
    right: str


class History(BaseModel):
    items: list[HistoryEntry]
    page: int
    pages: int
    total: int


NOTHING_WAITS: dict[int | str, dict[str, Any]] = {204: {"description": "No pair waits for you."}}


@router.post("/projects/{slug}/next", response_model=PairOut, responses={**NOTHING_WAITS, **problems(404)})
def next_pair(slug: Slug, session: SessionDep, here: ApiMemberDep) -> PairOut | Response:
    """The pair to judge next. Asking again before judging gives the same pair on the same sides."""
    pair = desk.show_next(session, project=here.project, user=here.user)
    return PairOut.of(pair) if pair else Response(status_code=204)


@router.post(
    "/projects/{slug}/undo",
    response_model=PairOut,
    responses={204: {"description": "You have judged nothing in this project."}, **problems(404)},
)
def undo(slug: Slug, session: SessionDep, here: ApiMemberDep) -> PairOut | Response:
    """Your latest judgment's pair again. A judgment with its token replaces the old one; without one the old one stays."""
    pair = desk.undo(session, project=here.project, user=here.user)
    return PairOut.of(pair) if pair else Response(status_code=204)


@router.post("/judgments", responses=problems(404, 409))
def judge(body: JudgmentIn, session: SessionDep, user: ApiNarrowUserDep, caller: ApiCallerDep) -> JudgmentOut:
    """Judge a pair. The same request again answers the same judgment; another choice for the same token is a 409."""
    return JudgmentOut.of(
        judgments.record(
            session,
            token=body.token,
            user=user,
            choice=body.choice,
            strength=body.strength,
            rationale=body.rationale,
            flags=body.flags,
            source=JudgmentSource.API,
            among=access.may(caller),
        )
    )


@router.post("/release", status_code=204, responses=problems(404))
def release(body: Release, session: SessionDep, user: ApiNarrowUserDep, caller: ApiCallerDep) -> Response:
    """Give a pair back unjudged, so that somebody else gets it at once."""
    desk.release(session, token=body.token, user=user, among=access.may(caller))
    return Response(status_code=204)


@router.get("/projects/{slug}/progress", responses=problems(404))
def progress(slug: Slug, session: SessionDep, here: ApiMemberDep) -> ProgressOut:
    """How far you and the project are."""
    return ProgressOut.model_validate(listing.progress(session, project=here.project, user=here.user))


@router.get("/projects/{slug}/judgments", responses=problems(404))
def my_judgments(
    slug: Slug,
    session: SessionDep,
    here: ApiMemberDep,
    page: int = Query(1, ge=1, le=1_000_000),
    size: int = Query(50, ge=1, le=200),
) -> History:
    """Your own judgments, the latest first, with the answers on the sides on which you saw them."""
    own = listing.history(session, project=here.project, user=here.user, page=page, size=size)
    items = [
        HistoryEntry(
            judgment=JudgmentOut.of(entry.judgment),
            prompt=[Message(**message) for message in entry.prompt],
            left=entry.left,
            right=entry.right,
        )
        for entry in own.items
    ]
    return History(items=items, page=own.number, pages=own.pages, total=own.total)
