"""The comparison desk: one pair, one choice, the next pair in the same reply."""

from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import Guideline, Judgment, Project, User
from app.services.collecting import desk, guidelines, judgments, listing
from app.services.collecting.desk import ShownPair
from app.services.collecting.listing import Progress
from app.web.deps import Work, WorkDep
from app.web.direct import Direct
from app.web.templating import PageResponse, is_fragment, redirect, render

router = APIRouter()

SAID = {
    "left": "Answer 1 is better",
    "right": "Answer 2 is better",
    "tie": "Tie",
    "both_bad": "Both bad",
    "skip": "Skipped",
}
STRENGTHS = {1: "Slightly", 2: "Clearly", 3: "Far"}


class JudgmentForm(BaseModel):
    """The desk's form. `seen_guidelines`: the version that is open beside the pair."""

    token: str = ""
    choice: str = ""
    strength: str = ""
    rationale: str = ""
    flags: list[str] = []
    seen_guidelines: int = 0


@dataclass(frozen=True)
class Draft:
    """What stands in the desk's fields before anybody types."""

    choice: str = ""
    strength: int | None = None
    rationale: str = ""
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DeskPage:
    """`pair` is None where nothing waits, `guideline` where none is to be shown.
    `said` is spoken to screen readers, `notice` shown above the pair."""

    project: Project
    pair: ShownPair | None
    progress: Progress
    guideline: Guideline | None
    draft: Draft
    said: str = ""
    notice: str = ""
    flag_names: dict[str, str] = field(default_factory=lambda: judgments.FLAGS)
    strengths: dict[int, str] = field(default_factory=lambda: STRENGTHS)
    longest_rationale: int = judgments.LONGEST_RATIONALE


@router.get("/projects/{slug}/compare")
def show(request: Request, work: WorkDep, edit: int | None = None) -> Response:
    """A page to look at that takes a lease, so it writes, unlike other GETs."""
    with work.writing() as (session, here):
        project, user = here.project, here.user
        page = _editing(session, project, user, edit) if edit is not None else _desk(session, project, user)
    return render(request, "collecting/compare/show.html", page).make()


def judge(request: Request, work: Work, form: JudgmentForm) -> Response:
    with work.writing() as (session, here):
        response = _judged(request, session, here.project, here.user, form)
    return response.make() if isinstance(response, PageResponse) else response


JUDGE = Direct("/projects/{slug}/compare", JudgmentForm, judge)


@router.post("/projects/{slug}/compare/undo")
def undo(request: Request, work: WorkDep) -> Response:
    with work.writing() as (session, here):
        response = _undone(request, session, here.project, here.user)
    return response.make() if isinstance(response, PageResponse) else response


def _judged(request: Request, session: Session, project: Project, user: User, form: JudgmentForm) -> Response:
    try:
        judgment = judgments.record(
            session,
            token=form.token,
            user=user,
            choice=form.choice,  # type: ignore[arg-type]
            strength=_strength(form.strength),
            rationale=form.rationale,
            flags=form.flags,
            project=project,
        )
    except (Invalid, Conflict, NotFound) as refusal:
        return _refused(request, session, project, user, form, refusal)
    said = f"{SAID[judgments.side_of(judgment)]}, saved."
    notice = (
        "The pair had gone to somebody else by then: your judgment is kept as an extra one." if judgment.late else ""
    )
    return _next(request, session, project, user, form, said=said, notice=notice)


def _undone(request: Request, session: Session, project: Project, user: User) -> Response:
    pair = desk.undo(session, project=project, user=user)
    if pair is None or pair.previous is None:
        return _next(request, session, project, user, JudgmentForm(), notice="There is nothing to undo yet.")
    if not is_fragment(request):
        return redirect(f"/projects/{project.slug}/compare?edit={pair.previous.id}")
    return _reply(request, _edit_page(session, project, user, pair, pair.previous, seen=project.guideline_version))


def _desk(
    session: Session,
    project: Project,
    user: User,
    *,
    said: str = "",
    notice: str = "",
    draft: Draft | None = None,
    seen: int | None = None,
) -> DeskPage:
    """`seen`: the version of the guidelines that the browser shows already; only another one is loaded."""
    return DeskPage(
        project,
        desk.show_next(session, project=project, user=user),
        listing.progress(session, project=project, user=user),
        _guideline(session, project, seen),
        draft or Draft(),
        said,
        notice,
    )


def _editing(session: Session, project: Project, user: User, judgment_id: int) -> DeskPage:
    judgment = judgments.get(session, judgment_id, user=user)
    if judgment.project_id != project.id:
        raise NotFound("You have no such judgment in this project.", "Look at your history.")
    return _edit_page(session, project, user, desk.reopen(session, judgment=judgment, user=user), judgment)


def _edit_page(
    session: Session, project: Project, user: User, pair: ShownPair, previous: Judgment, *, seen: int | None = None
) -> DeskPage:
    draft = Draft(judgments.side_of(previous), previous.strength, previous.rationale, list(previous.flags))
    return DeskPage(
        project,
        pair,
        listing.progress(session, project=project, user=user),
        _guideline(session, project, seen),
        draft,
        said=f"Your judgment was: {SAID[draft.choice]}. Choose again.",
    )


def _refused(
    request: Request,
    session: Session,
    project: Project,
    user: User,
    form: JudgmentForm,
    refusal: Invalid | Conflict | NotFound,
) -> Response:
    """What can't be recorded costs nothing but a line: an unfit form keeps its text, a pair that is settled gives way."""
    notice = f"{refusal.what} {refusal.next_step}"
    draft = None
    if isinstance(refusal, NotFound):
        notice = "That pair isn't yours any more. Here is another."
    elif isinstance(refusal, Invalid):
        draft = Draft("", None, form.rationale, form.flags)
    if not is_fragment(request):
        return redirect(f"/projects/{project.slug}/compare", notice, "bad")
    return _reply(request, _desk(session, project, user, notice=notice, draft=draft, seen=form.seen_guidelines))


def _next(
    request: Request,
    session: Session,
    project: Project,
    user: User,
    form: JudgmentForm,
    *,
    said: str = "",
    notice: str = "",
) -> Response:
    if not is_fragment(request):
        return redirect(f"/projects/{project.slug}/compare", notice)
    return _reply(request, _desk(session, project, user, said=said, notice=notice, seen=form.seen_guidelines))


def _reply(request: Request, page: DeskPage) -> PageResponse:
    """The desk and the count in the bar; the guidelines too if they changed since they were shown."""
    blocks = ["desk", "progress", *(["guidelines"] if page.guideline is not None else [])]
    return render(request, "collecting/compare/show.html", page, block=blocks)


def _guideline(session: Session, project: Project, seen: int | None) -> Guideline | None:
    return None if seen == project.guideline_version else guidelines.get(session, project=project)


def _strength(text: str) -> int | None:
    if text not in ("", "1", "2", "3"):
        raise Invalid("The strength isn't one of those offered.", "Choose slightly, clearly or far.", field="strength")
    return int(text) if text else None
