"""The data page: what training now would use, how good it is, what was frozen so far, and every comparison."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.models import Arm, Choice, Comparison, Freezing, Judgment, Project, Snapshot, Split
from app.paging import Page, Stretch
from app.routes.loop import lineage
from app.routes.loop.lineage import LineagePanel
from app.services.collecting import exclusions, listing
from app.services.collecting.blind import hidden
from app.services.collecting.exclusions import OfPair
from app.services.collecting.listing import Filters, Row
from app.services.datasets import figures, snapshots
from app.services.datasets.figures import Figures
from app.services.datasets.rules import LEFT_OUT
from app.services.training import freezings
from app.web.deps import EngineDep, LeadDep, RowId, SessionDep
from app.web.templating import is_fragment, render

router = APIRouter()

STATES = {"": "All", "waiting": "Waiting", "judged": "Judged", "excluded": "Left out"}
SPLITS = {"": "Both", "train": "Train", "eval": "Evaluation"}
ARMS = {
    "": "All",
    Arm.RANDOM: "Random",
    Arm.MARGIN: "Small margin",
    Arm.DISAGREEMENT: "Disagreement",
    Arm.DIVERSITY: "Diversity",
}
CHOICES = {
    Choice.FIRST: "first",
    Choice.SECOND: "second",
    Choice.TIE: "tie",
    Choice.BOTH_BAD: "both bad",
    Choice.SKIP: "skipped",
}


@dataclass(frozen=True, slots=True)
class DataPage:
    project: Project
    figures: Figures
    snapshots: list[Snapshot]
    page: Page[Row] | Stretch[Row]
    filters: Filters
    filtered: bool
    states: dict[str, str]
    splits: dict[str, str]
    choices: dict[Choice, str]
    left_out_words: dict[str, str]
    arms: dict[str, str]
    freezing: Freezing | None


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """`hidden`: the number of the evaluation that asks about it, 0 where its sources may be seen."""

    project: Project
    comparison: Comparison
    judgments: list[Judgment]
    choices: dict[Choice, str]
    hidden: int
    excluded: OfPair
    origins: LineagePanel
    arms: dict[str, str]


@router.get("/projects/{slug}/data")
def show(
    request: Request,
    session: SessionDep,
    engine: EngineDep,
    here: LeadDep,
    state: str = "",
    split: str = "",
    source: str = "",
    text: str = "",
    import_id: str = "",
    arm: str = "",
    page: int = 1,
    after: int = 0,
) -> Response:
    project = here.project
    filters = Filters(
        state=state if state in STATES else "",
        split=Split(split) if split in set(Split) else None,
        source=source[:255],
        text=text[:200],
        import_id=int(import_id) if import_id.isdecimal() and len(import_id) < 10 else None,
        arm=Arm(arm) if arm in set(Arm) else None,
    )
    shown_figures = figures.look(session, project=project)
    if shown_figures.is_due:
        figures.refresh(engine, project_id=project.id)
    shown = DataPage(
        project,
        shown_figures,
        snapshots.listing(session, project=project),
        listing.comparisons(
            session, project=project, filters=filters, page=page, size=25, after=min(max(after, 0), 2**31)
        ),
        filters,
        filters != Filters(),
        STATES,
        SPLITS,
        CHOICES,
        LEFT_OUT,
        ARMS,
        freezings.latest(session, project=project),
    )
    return render(request, "datasets/data/show.html", shown, block="figures" if is_fragment(request) else None)


@router.get("/comparisons/{comparison_id}")
def comparison(comparison_id: RowId, request: Request, session: SessionDep, here: LeadDep) -> Response:
    """One comparison with its sources and every judgment, for those who may see them; sources when nobody is asked blind."""
    row = listing.comparison(session, comparison_id)
    judgments = listing.judgments_of(session, row.id)
    excluded = exclusions.of_pair(session, comparison=row, judgments=judgments)
    origins = lineage.of_pair(session, row)
    number = hidden.of_pairs(session, [row]).get(row.id, 0)
    page = ComparisonPage(here.project, row, judgments, CHOICES, number, excluded, origins, ARMS)
    return render(request, "datasets/data/comparison.html", page)
