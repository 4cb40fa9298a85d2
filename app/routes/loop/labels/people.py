"""Whose preferences a run learned: leave somebody's votes out, with the cost shown first, and what the runs said."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import read_session
from app.errors import PrefloopError
from app.models import Evaluator, JobState, PersonRun, PersonStudy, Project, TrainingRun, User
from app.services.loop.labels import learned, studies
from app.services.loop.labels.studies import MOST_PEOPLE, Wanted
from app.services.training import runs
from app.web.deps import EngineDep, EngineerDep, EngineerUploaderDep, RowId, SessionDep, StorageDep, client_address
from app.web.templating import is_fragment, redirect, render

router = APIRouter()
SHOWN_PEOPLE = 50


@dataclass(frozen=True, slots=True)
class Form:
    people: list[str]
    seeds: str

    def wanted(self) -> Wanted:
        """Raises Invalid."""
        return Wanted(tuple(_number(one) for one in self.people), _number(self.seeds)).checked()


@dataclass(frozen=True, slots=True)
class Row:
    """One person of a study: a sentence, and the figures behind it."""

    name: str
    sentence: str
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A study: its runs by person (None: everybody's votes), and what they said once all had succeeded."""

    study: PersonStudy
    names: list[str]
    runs: list[tuple[PersonRun, JobState]]
    rows: list[Row]
    problem: str

    @property
    def done(self) -> int:
        return sum(state is JobState.SUCCEEDED for _, state in self.runs)

    @property
    def broken(self) -> list[PersonRun]:
        return [run for run, state in self.runs if state in studies.ENDED_BADLY]


@dataclass(frozen=True, slots=True)
class PeoplePage:
    project: Project
    run: TrainingRun
    form: Form
    people: list[Evaluator]
    names: Mapping[int, str]
    cost: str
    problem: str
    studies: list[Shown]
    errors: dict[str, str] = field(default_factory=dict)
    most: int = MOST_PEOPLE


async def _form(request: Request) -> Form:
    sent = await request.form() if request.method == "POST" else request.query_params
    return Form([one for one in sent.getlist("person") if isinstance(one, str)], str(sent.get("seeds", "1")))


FormDep = Annotated[Form, Depends(_form)]


@router.get("/jobs/{job_id}/people")
def show(job_id: RowId, request: Request, session: SessionDep, _: EngineerDep, form: FormDep) -> Response:
    """What the form as it stands would cost, and what earlier studies said."""
    page = _page(session, runs.get(session, job_id), form)
    return render(request, "loop/labels/people.html", page, block="cost" if is_fragment(request) else None)


@router.post("/jobs/{job_id}/people")
def create(
    job_id: RowId, request: Request, form: FormDep, engine: EngineDep, here: EngineerUploaderDep, storage: StorageDep
) -> Response:
    try:
        studies.begin(
            engine, job_id=job_id, wanted=form.wanted(), by_id=here.user.id, storage=storage,
            address=client_address(request),
        )  # fmt: skip
    except PrefloopError as error:
        errors = {str(error.details.get("field", "")): str(error)}
        with read_session(engine) as session:
            page = _page(session, runs.get(session, job_id), form, errors)
            return render(request, "loop/labels/people.html", page, status=error.status)
    return redirect(f"/jobs/{job_id}/people", "The runs are queued. They are compared when all are done.", "good")


def _page(session: Session, run: TrainingRun, form: Form, errors: dict[str, str] | None = None) -> PeoplePage:
    cost, problem = "", ""
    try:
        wanted = studies.require(session, run=run, wanted=form.wanted())
        cost = studies.cost(session, run=run, wanted=wanted).sentence
    except PrefloopError as error:
        problem = str(error)
    made = studies.of_run(session, job_id=run.job_id)
    people = studies.people(run)[:SHOWN_PEOPLE]
    ids = {person for study in made for person in study.people} | {one.user_id for one in people}
    names = dict(session.execute(select(User.id, User.display_name).where(User.id.in_(ids))).tuples().all())
    progress = studies.progress(session, study_ids=[study.id for study in made])
    return PeoplePage(
        project=run.job.project,
        run=run,
        form=form,
        people=people,
        names=names,
        cost=cost,
        problem=problem,
        studies=[_shown(study, run.parent_id, names, progress[study.id]) for study in made],
        errors=errors or {},
    )


def _shown(
    study: PersonStudy, parent_id: int | None, names: Mapping[int, str], of: list[tuple[PersonRun, JobState]]
) -> Shown:
    result = study.result or {"people": [], "problem": ""}
    rows = []
    for one in result["people"]:
        name = names.get(one["user_id"], "Somebody")
        rows.append(Row(name, learned.sentence(one, name, len(study.seeds), parent_id), one))
    return Shown(study, [names.get(one, "Somebody") for one in study.people], of, rows, result["problem"])


def _number(text: str) -> int:
    """0 for what is no number: `Wanted` says what may be there."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
