"""Label checks: ask for one with its cost shown first, and the pairs that one lists, to look at and to leave out."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import PrefloopError
from app.models import JobKind, LabelCheck, Project, TrainingRun, User
from app.paging import Page
from app.services.jobs import workers
from app.services.loop.labels import checks, cost, pairs, words
from app.services.loop.labels.pairs import Listed, Listing
from app.services.loop.labels.plan import SHARES, Plan
from app.services.loop.labels.words import Trust
from app.services.training import runs
from app.web.deps import EngineerDep, RowId, SessionDep, SettingsDep, StorageDep
from app.web.downloads import send_label_check_file
from app.web.templating import is_fragment, redirect, render
from app.web.text.differing import Run, differing

router = APIRouter()

TITLES = {Listed.CONTRADICT: "Contradict the others", Listed.LOWER: "Would push the chosen answer down"}
SIZE = 10


@dataclass(frozen=True, slots=True)
class Form:
    """What was written into the form, as it was."""

    folds: str
    plantings: str
    shares: list[str]

    def plan(self) -> Plan:
        """Raises Invalid."""
        shares = tuple(_number(one) / 100 for one in self.shares)
        return Plan(_number(self.folds), shares, _number(self.plantings)).checked()


@dataclass(frozen=True, slots=True)
class NewPage:
    project: Project
    run: TrainingRun
    form: Form
    cost: str
    problem: str
    workers_able: int
    checks: list[LabelCheck]
    errors: dict[str, str] = field(default_factory=dict)
    shares: tuple[int, ...] = tuple(round(100 * share) for share in SHARES)


@dataclass(frozen=True, slots=True)
class Row:
    """A person: their votes, and how often models that weren't trained on the pair foresaw them."""

    name: str
    votes: int
    raw: float
    agreement: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair with what its answers don't share."""

    pair: Listing
    chosen: list[Run] | None
    rejected: list[Run] | None


@dataclass(frozen=True, slots=True)
class CheckPage:
    project: Project
    check: LabelCheck
    of_another_start: bool
    listed: Listed
    tabs: list[tuple[Listed, str, int]]
    trust: list[Trust]
    agreement: str
    people: list[Row]
    page: Page[Listing]
    pairs: list[Shown]


async def _form(request: Request) -> Form:
    sent = await request.form() if request.method == "POST" else request.query_params
    if "folds" not in sent:
        usual = Plan()
        return Form(str(usual.folds), str(usual.plantings), [f"{100 * share:.0f}" for share in usual.shares])
    given = {name: str(sent.get(name, "")) for name in ("folds", "plantings")}
    return Form(**given, shares=[one for one in sent.getlist("share") if isinstance(one, str)])


FormDep = Annotated[Form, Depends(_form)]


@router.get("/jobs/{job_id}/label-checks")
def new(
    job_id: RowId, request: Request, session: SessionDep, _: EngineerDep, settings: SettingsDep, form: FormDep
) -> Response:
    """The form with what it would cost as it stands; nothing is stored."""
    page = _new(session, runs.get(session, job_id), form, settings.worker_lease_seconds)
    return render(request, "loop/labels/new.html", page, block="cost" if is_fragment(request) else None)


@router.post("/jobs/{job_id}/label-checks")
def create(
    job_id: RowId, request: Request, session: SessionDep, here: EngineerDep, settings: SettingsDep, form: FormDep
) -> Response:
    run = runs.get(session, job_id)
    try:
        made = checks.begin(session, run=run, plan=form.plan(), by=here.user)
    except PrefloopError as error:
        errors = {str(error.details.get("field", "")): str(error)}
        page = _new(session, run, form, settings.worker_lease_seconds, errors)
        return render(request, "loop/labels/new.html", page, status=error.status)
    return redirect(f"/jobs/{made.job_id}")


@router.get("/label-checks/{job_id}")
def show(
    job_id: RowId, request: Request, session: SessionDep, _: EngineerDep, shown: str = "", page: int = 1
) -> Response:
    check = checks.get(session, job_id)
    if check.result is None:
        return redirect(f"/jobs/{job_id}")
    listed = Listed(shown) if shown in set(Listed) else Listed.CONTRADICT
    rows = pairs.listing(session, check=check, listed=listed, page=page, size=SIZE)
    context = CheckPage(
        project=check.job.project,
        check=check,
        of_another_start=checks.is_of_another_start(check),
        listed=listed,
        tabs=[(one, TITLES[one], pairs.total(check, one)) for one in Listed],
        trust=words.trust(check.result),
        agreement=words.agreement(check.result),
        people=_people(session, check.result["people"]),
        page=rows,
        pairs=[_side_by_side(pair) for pair in rows.items],
    )
    return render(request, "loop/labels/show.html", context)


@router.get("/label-checks/{job_id}/files/{name}", response_class=Response)
def download(
    job_id: RowId, name: str, request: Request, session: SessionDep, storage: StorageDep, _: EngineerDep
) -> Response:
    return send_label_check_file(request, session, storage, job_id=job_id, name=name)


def _new(
    session: Session, run: TrainingRun, form: Form, silent_after: float, errors: dict[str, str] | None = None
) -> NewPage:
    told, problem = "", ""
    try:
        plan = checks.require(session, run=run, plan=form.plan())
        told = cost.of_check(session, run=run, plan=plan).sentence
    except PrefloopError as error:
        problem = str(error)
    living = workers.alive(session, silent_after=silent_after)
    return NewPage(
        project=run.job.project,
        run=run,
        form=form,
        cost=told,
        problem=problem,
        workers_able=len(workers.able(living, JobKind.LABEL_CHECK)),
        checks=checks.of_run(session, job_id=run.job_id),
        errors=errors or {},
    )


def _people(session: Session, people: list[dict[str, Any]]) -> list[Row]:
    ids = [one["user_id"] for one in people]
    names = dict(session.execute(select(User.id, User.display_name).where(User.id.in_(ids))).tuples().all())
    return [
        Row(names.get(one["user_id"], "Somebody"), one["agreement"]["count"], one["raw"], one["agreement"])
        for one in people
    ]


def _side_by_side(pair: Listing) -> Shown:
    chosen, rejected = differing(pair.chosen, pair.rejected) or (None, None)
    return Shown(pair, chosen, rejected)


def _number(text: str) -> int:
    """0 for what is no number: `Plan` says what may be there."""
    return int(text) if text.strip().isascii() and text.strip().isdigit() and len(text.strip()) < 5 else 0
