"""prefloop lineage …: where things went and where they come from; a run again without what was excluded"""

from typing import Annotated

import orjson
import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session
from app.errors import NotFound
from app.models import Judgment
from app.services.collecting import listing
from app.services.datasets import snapshots
from app.services.loop import lineage, retraining
from app.services.loop.lineage import Lineage
from app.services.training import checkpoints, runs
from app.storage import get_storage

group = typer.Typer(no_args_is_help=True, help="Where things went and where they come from.")


@group.command("pair")
def of_pair(comparison: int, as_json: AsJson = False) -> None:
    """Show every snapshot, run, checkpoint, export and verdict that used a comparison."""
    with read_session() as session:
        _show(lineage.of_pair(session, comparison=listing.comparison(session, comparison)), as_json)


@group.command("judgment")
def of_judgment(judgment: int, as_json: AsJson = False) -> None:
    """The same of the comparison that a judgment is about."""
    with read_session() as session:
        row = session.get(Judgment, judgment)
        if row is None:
            raise NotFound(f"There is no judgment {judgment}.", "A comparison's page lists its judgments.")
        _show(lineage.of_pair(session, comparison=listing.comparison(session, row.comparison_id)), as_json)


@group.command("snapshot")
def of_snapshot(snapshot: int, as_json: AsJson = False) -> None:
    """Show what was made from a snapshot, and what of it was excluded later."""
    with read_session() as session:
        _show(lineage.of_snapshot(session, snapshot_id=snapshots.get(session, snapshot).id), as_json)


@group.command("run")
def of_run(run: int, as_json: AsJson = False) -> None:
    """Show what a run was trained on, and what came of it."""
    with read_session() as session:
        _show(lineage.of_run(session, job_id=runs.get(session, run).job_id), as_json)


@group.command("checkpoint")
def of_checkpoint(checkpoint: int, as_json: AsJson = False) -> None:
    """Show where a checkpoint comes from, and what was made of it."""
    with read_session() as session:
        _show(lineage.of_checkpoint(session, checkpoint_id=checkpoints.get(session, checkpoint).id), as_json)


@group.command("retrain")
def retrain(
    run: Annotated[int, typer.Argument(help="The run, whose snapshot holds what was excluded later.")],
    as_user: ActAs = None,
) -> None:
    """Start a run again on its snapshot without what is excluded now."""
    with read_session() as session:
        by = acting_user(session, as_user)
    made = retraining.retrain(get_engine(), job_id=run, by_id=by.id, storage=get_storage(get_settings()))
    console.print(f"Run {made.job_id} is queued: {made.note}.")
    console.print(f"Its receipt once it is done: prefloop lineage receipt {made.job_id}")


@group.command("receipt")
def receipt(run: Annotated[int, typer.Argument(help="The new run.")]) -> None:
    """Print, as JSON, the hashes of both snapshots and of both runs' weights."""
    with read_session() as session:
        told = retraining.receipt(session, job_id=run)
    if told is None:
        raise NotFound(f"Run {run} isn't another run again.", "Make one: prefloop lineage retrain RUN")
    print(orjson.dumps(told.as_dict(), option=orjson.OPT_INDENT_2).decode())


def _show(told: Lineage, as_json: bool) -> None:
    if told.unread and not as_json:
        console.print(f"{told.unread} snapshots of an earlier version are still to be looked through.")
    show(
        (
            {
                "kind": node.kind.value,
                "id": node.id,
                "title": node.title,
                "state": node.state,
                "excluded": node.excluded,
                "from": ", ".join(f"{kind.value} {number}" for kind, number in node.sources),
            }
            for node in told.nodes
        ),
        as_json=as_json,
        empty="Nothing.",
    )
