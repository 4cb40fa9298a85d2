"""prefloop arms …: what the judgments of an arm bought"""

from typing import Annotated

import orjson
import typer

from app.commands.context import acting_user, console
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import NotFound
from app.models import ArmTrial, Project, TrainingRun
from app.services.collecting import projects
from app.services.loop.generating.arms import WORDS
from app.services.loop.trials import steps, trials, words
from app.services.loop.trials.plan import Plan
from app.services.training import runs
from app.storage import get_storage

group = typer.Typer(no_args_is_help=True, help="What the judgments of an arm bought.")
Slug = Annotated[str, typer.Argument(help="The project.")]
Of = Annotated[int, typer.Option("--run", help="The run whose snapshot and settings are used.")]
Compared = Annotated[list[str], typer.Option("--arm", help="margin, disagreement or diversity; may be repeated.")]
Seeds = Annotated[int, typer.Option(help="How often each run is made, 3 or more.")]
Numbered = Annotated[int | None, typer.Argument(help="The trial. Default: the newest.")]


@group.command("cost")
def cost(slug: Slug, run: Of, arm: Compared, seeds: Seeds = 3) -> None:
    """Say what a trial would take, and start nothing."""
    with read_session() as session:
        project = projects.get(session, slug)
        console.print(trials.cost(session, run=_run(run, project), plan=Plan.of(arm, seeds)).sentence)


@group.command("try")
def start(slug: Slug, run: Of, arm: Compared, seeds: Seeds = 3, as_user: ActAs = None) -> None:
    """Train with and without each arm's pairs, at equal size, and see what they bought."""
    plan = Plan.of(arm, seeds)
    with read_session() as session:
        by, project = acting_user(session, as_user), projects.get(session, slug)
        of = _run(run, project)
        console.print(trials.cost(session, run=of, plan=plan).sentence)
        trials.require_start(get_settings(), of, trials.require(session, run=of, plan=plan))
    with write_session() as session:
        row, _ = trials.begin(session, project=project, run=runs.get(session, run), plan=plan, by=by)
    steps.advance(get_engine(), get_storage(get_settings()), row.id)
    _tell(row.id, as_json=False)


@group.command("show")
def show(slug: Slug, number: Numbered = None, as_json: AsJson = False) -> None:
    """Show how far a trial is, or what it came to."""
    _tell(_row(slug, number).id, as_json)


@group.command("stop")
def stop(slug: Slug, number: Numbered = None, as_user: ActAs = None) -> None:
    """End a trial and cancel its runs."""
    row = _row(slug, number)
    with write_session() as session:
        trials.stop(session, row=trials.get(session, row.id), by=acting_user(session, as_user))
    _tell(row.id, as_json=False)


@group.command("retry")
def retry(slug: Slug, number: Numbered = None, as_user: ActAs = None) -> None:
    """Queue a trial's runs that failed or were cancelled again."""
    row = _row(slug, number)
    with write_session() as session:
        trials.retry(session, row=trials.get(session, row.id), by=acting_user(session, as_user))
    _tell(row.id, as_json=False)


def _run(number: int, project: Project) -> TrainingRun:
    with read_session() as session:
        run = runs.get(session, number)
    if run.job.project_id != project.id:
        raise runs.missing(number)
    return run


def _row(slug: str, number: int | None) -> ArmTrial:
    with read_session() as session:
        project = projects.get(session, slug)
        if number is not None:
            return trials.numbered(session, project=project, number=number)
        rows = trials.listing(session, project=project, size=1).items
    if not rows:
        raise NotFound(
            f"Project {slug} has had no trial of arms.", f"Start one: prefloop arms try {slug} --run RUN --arm margin"
        )
    return rows[0]


def _tell(trial_id: int, as_json: bool) -> None:
    with read_session() as session:
        row = trials.get(session, trial_id)
        made = trials.runs_of(session, trial_id=trial_id)
    if as_json:
        told = {"trial": row.number, "state": row.state.value, "problem": row.problem, "result": row.result}
        told |= {"runs": {str(run.job_id): job.state.value for run, job in made}}
        print(orjson.dumps(told).decode())
        return
    console.print(f"Trial {row.number} is {row.state.value}. {row.problem}".strip())
    for run, job in made:
        console.print(
            f"  run {run.job_id}: without {run.pairs} pairs of {WORDS[run.left_out]}, seed {run.seed + 1}: {job.state.value}"
        )
    for sentence in words.sentences(row):
        console.print(sentence)
    console.print(f"{get_settings().base_url}/projects/{row.project.slug}/trials/{row.number}")
