"""prefloop labels …: labels that the others contradict, and pairs that would push the chosen answer down"""

from typing import Annotated

import orjson
import typer
from sqlalchemy import select

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Conflict
from app.models import JobState, LabelCheck, User
from app.services.loop.labels import checks, cost, learned, pairs, studies, words
from app.services.loop.labels.pairs import Listed
from app.services.loop.labels.plan import FOLDS, Plan
from app.services.loop.labels.studies import Wanted
from app.services.training import runs
from app.storage import get_storage

labels = typer.Typer(
    no_args_is_help=True, help="Labels that the others contradict, and whose preferences were learned."
)


@labels.command("check")
def check(
    run: Annotated[int, typer.Argument(help="A run that succeeded.")],
    folds: Annotated[int, typer.Option(help="Parts of the data, each asked of a model of the others.")] = FOLDS,
    plant: Annotated[list[float] | None, typer.Option(help="Share of labels to turn around; may be repeated.")] = None,
    plantings: Annotated[int, typer.Option(help="How often each share is planted.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    as_user: ActAs = None,
) -> None:
    """Ask about each pair of a run models that weren't trained on it."""
    plan = Plan(folds, tuple(plant or Plan().shares), plantings).checked()
    with read_session() as session:
        row = runs.get(session, run)
        checks.require(session, run=row, plan=plan)
        console.print(cost.of_check(session, run=row, plan=plan).sentence)
    if dry_run:
        return
    with write_session() as session:
        by = acting_user(session, as_user)
        made = checks.begin(session, run=runs.get(session, run), plan=plan, by=by)
        console.print(f"Label check {made.job_id} is {made.job.state.value}. Look: prefloop labels show {made.job_id}")


@labels.command("list")
def list_checks(run: int, as_json: AsJson = False) -> None:
    """Show a run's label checks, the newest first."""
    with read_session() as session:
        runs.check(session, run)
        rows = checks.of_run(session, job_id=run)
        show(map(_row, rows), as_json=as_json, empty=f"No label checks yet. Start one: prefloop labels check {run}")


@labels.command("show")
def show_check(label_check: int, as_json: AsJson = False) -> None:
    """Show what a label check came to, and how far its list can be trusted."""
    with read_session() as session:
        row = checks.get(session, label_check)
    if as_json:
        console.print_json(orjson.dumps(_row(row) | {"result": row.result}).decode())
        return
    if row.result is None:
        console.print(f"Label check {row.job_id} is {row.job.state.value}. Look: prefloop jobs show {row.job_id}")
        return
    for one in words.trust(row.result):
        console.print(one.sentence)
    console.print(words.agreement(row.result))
    for which in Listed:
        console.print(f"{pairs.total(row, which)} pairs: prefloop labels pairs {row.job_id} --list {which.value}")


@labels.command("pairs")
def list_pairs(
    label_check: int,
    which: Annotated[Listed, typer.Option("--list", help="contradict, or lower.")] = Listed.CONTRADICT,
    page: int = 1,
    as_json: AsJson = False,
) -> None:
    """Show the pairs that it lists, the strongest first. Leave one out: prefloop exclude pair."""
    with read_session() as session:
        row = checks.get(session, label_check)
        if row.result is None:
            raise Conflict(f"Label check {label_check} isn't done.", f"Look: prefloop jobs show {label_check}")
        rows = pairs.listing(session, check=row, listed=which, page=page, size=50)
        show(
            (
                {
                    "place": one.place,
                    "comparison": one.row.comparison_id,
                    "margin": round(one.row.margin, 4),
                    "ches_normalised": round(one.row.ches_normalised, 4),
                    "on_policy_gap": round(one.row.on_policy_gap, 4),
                    "left_out": one.exclusion_id is not None,
                    "prompt": one.prompt[-1]["content"][:80] if one.prompt else "",
                }
                for one in rows.items
            ),
            as_json=as_json,
            empty="No pair is on this list.",
        )


@labels.command("people")
def people(
    run: Annotated[int, typer.Argument(help="A run that succeeded.")],
    person: Annotated[list[int] | None, typer.Option(help="A user's id, left out alone; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="Each run is made with so many seeds.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """Whose preferences were learned: make a run again without each one's votes. Without --person, say who voted."""
    with read_session() as session:
        row = runs.get(session, run)
        if not person:
            voted = ({"id": one.user_id, "name": one.name, "judgments": one.judgments} for one in studies.people(row))
            show(voted, as_json=as_json, empty="Nobody's votes are in its snapshot.")
            return
        wanted = studies.require(session, run=row, wanted=Wanted(tuple(person), seeds))
        console.print(studies.cost(session, run=row, wanted=wanted).sentence)
        by_id = acting_user(session, as_user).id
    if dry_run:
        return
    made = studies.begin(get_engine(), job_id=run, wanted=wanted, by_id=by_id, storage=get_storage(get_settings()))
    console.print(f"Study {made.id}: its runs are queued. Once they are done: prefloop labels learned {run}")


@labels.command("learned")
def show_learned(run: int, as_json: AsJson = False) -> None:
    """Show whose preferences a run learned, as the runs without each one's votes say."""
    with read_session() as session:
        parent_id = runs.get(session, run).parent_id
        rows = studies.of_run(session, job_id=run)
        told = studies.progress(session, study_ids=[row.id for row in rows])
        ids = {number for row in rows for number in row.people}
        names = dict(session.execute(select(User.id, User.display_name).where(User.id.in_(ids))).tuples().all())
    if as_json:
        kept = ({"id": row.id, "people": row.people, "seeds": row.seeds, "result": row.result} for row in rows)
        show(kept, as_json=True, empty="")
        return
    if not rows:
        console.print(f"Nothing yet. Start: prefloop labels people {run} --person ID")
    for row in rows:
        done = sum(state is JobState.SUCCEEDED for _, state in told[row.id])
        if row.result is None:
            console.print(f"Study {row.id}: {done} of {len(told[row.id])} runs are done.")
            continue
        for one in row.result["people"]:
            console.print(learned.sentence(one, names.get(one["user_id"], "Somebody"), len(row.seeds), parent_id))
        if row.result["problem"]:
            console.print(row.result["problem"])


def _row(row: LabelCheck) -> dict[str, object]:
    return {"id": row.job_id, "run": row.of_job_id, "state": row.job.state.value, "plan": row.plan_key}
