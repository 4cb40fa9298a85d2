"""The page of a verdict: the word and its interval first, what explains it below."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.db import read_session
from app.models import Evaluation, Project
from app.paging import Page
from app.routes.loop.verdict_panel import Panel, panel
from app.services.loop import verdicts
from app.services.loop.evaluating import since
from app.services.loop.evaluating.since import Learnt
from app.services.loop.verdict import pairs, words
from app.services.loop.verdict.pairs import Outcome, Shown
from app.services.loop.verdict.shape import Verdict
from app.web.deps import EngineDep, LeadUploaderDep
from app.web.templating import is_fragment, render
from app.web.text.differing import Run, differing

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Row:
    """One person in the table: what they voted, what is left without them, sides and speed."""

    name: str
    votes: int
    raw: float
    low: float
    value: float | None
    high: float
    without: str
    tips: bool
    left: str
    clicks: bool
    seconds: float | None
    unread: float


@dataclass(frozen=True, slots=True)
class SideBySide:
    """`new` and `old` are None where the answers are too long to compare word by word."""

    outcome: Outcome
    new: list[Run] | None
    old: list[Run] | None
    tells: list[str]


@dataclass(frozen=True, slots=True)
class VerdictPage:
    project: Project
    panel: Panel
    evaluation: Evaluation
    verdict: Verdict | None
    people: list[Row]
    facts: list[tuple[str, str]]
    shown: Shown
    tabs: list[tuple[str, str, int]]
    page: Page[Outcome]
    pairs: list[SideBySide]
    is_open: bool
    void_for: list[Learnt]


@router.get("/projects/{slug}/evaluations/{number}")
def show(
    number: int,
    request: Request,
    here: LeadUploaderDep,
    engine: EngineDep,
    shown: Shown = Shown.LOST,
    page: int = 1,
) -> Response:
    with read_session(engine) as session:
        row = verdicts.by_number(session, project=here.project, number=number)
    told = verdicts.current(engine, row.id)
    with read_session(engine) as session:
        outcomes = pairs.listing(session, told.evaluation, shown=shown, page=page)
        void_for = since.learnt(session, told.evaluation)
    of_page = panel(told, here.project)
    context = VerdictPage(
        project=here.project,
        panel=of_page,
        evaluation=told.evaluation,
        verdict=of_page.verdict,
        people=_people(of_page.verdict, told.names),
        facts=_facts(told.evaluation, of_page.verdict),
        shown=shown,
        tabs=_tabs(of_page.verdict),
        page=outcomes,
        pairs=[_side_by_side(outcome) for outcome in outcomes.items],
        is_open=of_page.is_open,
        void_for=void_for,
    )
    return render(request, "loop/verdicts/show.html", context, block="pairs" if is_fragment(request) else None)


def _people(verdict: Verdict | None, names: dict[int, str]) -> list[Row]:
    if verdict is None:
        return []
    without = {one.user_id: one for one in verdict.without}
    sides = {one.user_id: one for one in verdict.sides}
    speed = {one.user_id: one for one in verdict.speed}
    rows = []
    for one in verdict.by_person:
        rest, side, pace = without.get(one.user_id), sides.get(one.user_id), speed.get(one.user_id)
        rows.append(
            Row(
                name=names.get(one.user_id, "Somebody"),
                votes=one.win_rate.count,
                raw=one.raw,
                low=one.win_rate.low,
                value=one.win_rate.value,
                high=one.win_rate.high,
                without=f"{words.percent(rest.win_rate.value)} ({words.span(rest.win_rate)})" if rest else "–",
                tips=rest.tips if rest else False,
                left=words.percent(side.left.value) if side else "–",
                clicks=side.clicks_a_side if side else False,
                seconds=pace.seconds if pace else None,
                unread=pace.unread if pace else 0.0,
            )
        )
    return rows


def _facts(row: Evaluation, verdict: Verdict | None) -> list[tuple[str, str]]:
    """How it was decided: the plan as it was fixed, and what came of its prompts."""
    facts = [
        ("Checkpoint", f"{row.checkpoint_id}, against {words.against(row)}"),
        ("At most", words.many(row.maximum, "prompt")),
        ("Judgments of each prompt", str(row.votes)),
        ("“Both bad” counts as", "a tie" if row.both_bad == "tie" else "no vote"),
    ]
    if verdict is not None:
        facts.insert(1, ("Goal", words.goal_in_words(verdict)))
        facts.insert(2, ("Confidence", f"{words.percent(verdict.confidence)}, at all looks together"))
        counted = f"{verdict.won:,} won, {verdict.lost:,} lost, {verdict.tied:,} tied"
        facts.append(("Prompts", f"{verdict.prompts:,} of {verdict.planned:,} count: {counted}"))
        if left_out := words.left_out(verdict):
            facts.append(("Left out", left_out.removeprefix("Left out: ").rstrip(".")))
        facts.append(("Judgments", f"{verdict.judgments:,} by {words.many(verdict.people, 'person', 'people')}"))
    return facts


def _tabs(verdict: Verdict | None) -> list[tuple[str, str, int]]:
    """(which, its words, how many), without those that are empty."""
    if verdict is None:
        return []
    tabs = [
        (Shown.LOST.value, "Lost", verdict.lost),
        (Shown.WON.value, "Won", verdict.won),
        (Shown.TIED.value, "Tied", verdict.tied - verdict.same),
        (Shown.SAME.value, "Same answer", verdict.same),
        (Shown.TELLING.value, "Might give a side away", verdict.telling.pairs if verdict.telling else 0),
    ]
    return [tab for tab in tabs if tab[2]]


def _side_by_side(outcome: Outcome) -> SideBySide:
    runs = None if outcome.same else differing(outcome.new, outcome.old)
    new, old = runs or (None, None)
    return SideBySide(outcome, new, old, [words.kind_of_tell(kind) for kind in outcome.tells])
