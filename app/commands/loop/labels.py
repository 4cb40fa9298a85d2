"""prefloop labels …: labels that the others contradict, and pairs that would push the chosen answer down"""

from typing import Annotated

import orjson
import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.db import read_session, write_session
from app.errors import Conflict
from app.models import LabelCheck
from app.services.loop.labels import checks, cost, pairs, words
from app.services.loop.labels.pairs import Listed
from app.services.loop.labels.plan import FOLDS, Plan
from app.services.training import runs

labels = typer.Typer(no_args_is_help=True, help="Labels that the others contradict.")


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
        plan.check_for(runs.train_pairs(row.snapshot))
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


def _row(row: LabelCheck) -> dict[str, object]:
    return {"id": row.job_id, "run": row.of_job_id, "state": row.job.state.value, "plan": row.plan_key}
