"""prefloop evaluate …, prefloop evaluations …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.models import Evaluation, Split
from app.services.collecting import projects
from app.services.loop import batches
from app.services.loop import evaluations as service
from app.services.loop.evaluating import keeping, standing
from app.services.loop.evaluating.promise import promise
from app.services.loop.evaluating.wanted import BothBad, Skips, Wanted
from app.stats.loop.decision import Goal

evaluations = typer.Typer(no_args_is_help=True, help="Blind batches of checkpoints.")


def evaluate(
    checkpoint: Annotated[int, typer.Argument(help="The checkpoint's id.", metavar="CHECKPOINT")],
    against: Annotated[str, typer.Option(help="parent, base, or the id of a checkpoint.")] = "parent",
    goal: Annotated[Goal, typer.Option(help="What it is to show.")] = Goal.SUPERIORITY,
    margin: Annotated[float, typer.Option(help="Of non-inferiority: a difference of win rates.")] = 0.05,
    maximum: Annotated[int, typer.Option(help="Prompts at most; it stops earlier where it can.")] = 400,
    votes: Annotated[int, typer.Option(help="Judgments of each prompt.")] = 1,
    share: Annotated[int, typer.Option(help="Percentage of the pairs that people get while it asks.")] = 30,
    prompts: Annotated[
        Split, typer.Option(help="eval: those of the eval split; kept: those kept for it.")
    ] = Split.EVAL,
    both_bad: Annotated[BothBad, typer.Option(help="How “both bad” counts.")] = BothBad.TIE,
    skips: Annotated[Skips, typer.Option(help="What a skip does.")] = Skips.ASK_OTHERS,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest word.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it can decide.")] = False,
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """Compare a checkpoint blind with its parent, its base or another checkpoint."""
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    wanted = Wanted(
        goal=goal,
        margin=margin,
        maximum=maximum,
        votes=votes,
        both_bad=both_bad,
        skips=skips,
        share=share,
        prompts=prompts,
        sampling={name: value for name, value in sampling.items() if value is not None},
    ).checked()
    with read_session() as session:
        by_id = acting_user(session, as_user).id
        drawn = batches.draw(session, checkpoint_id=checkpoint, opponent=against, wanted=wanted, seed=1)
    if not drawn.chosen.prompts:
        raise batches.nothing_to_ask(drawn.chosen, wanted)
    if not as_json:
        console.print(promise(wanted.plan(len(drawn.chosen.prompts))).sentence)
    if dry_run:
        return
    made = batches.start(
        get_engine(), get_settings(), checkpoint_id=checkpoint, by_id=by_id, opponent=against, wanted=wanted
    )
    if as_json:
        show([_row(made)], as_json=True, empty="")
        return
    console.print(f"Evaluation {made.id} is prepared by job {made.job_id}. Look: prefloop evaluations show {made.id}")


@evaluations.command("list")
def list_evaluations(slug: str, as_json: AsJson = False) -> None:
    """Show a project's evaluations, the newest first."""
    with read_session() as session:
        rows = service.listing(session, project=projects.get(session, slug)).items
        show(map(_row, rows), as_json=as_json, empty="No evaluations yet. Start one: prefloop evaluate CHECKPOINT")


@evaluations.command("show")
def show_evaluation(evaluation: int, as_json: AsJson = False) -> None:
    """Show how far an evaluation is, and whom it can still ask."""
    with read_session() as session:
        row = service.get(session, evaluation)
        told = standing.look(session, row)
    facts = _row(row) | {
        "judged": told.judged,
        "waiting": told.waiting,
        "same": told.same,
        "left_out": dict(told.left_out),
        "unaskable": told.unaskable,
    }
    if as_json:
        show([facts], as_json=True, empty="")
        return
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' ')}: {value}")
    for note in standing.notes(row, told):
        console.print(f"  {note}")
    for one in told.people:
        console.print(f"  {one.can_be_asked:,} prompts are left for {one.name}")


@evaluations.command("stop")
def stop_evaluation(evaluation: int, as_user: ActAs = None) -> None:
    """Ask nobody any more. What was judged is kept."""
    with write_session() as session:
        by = acting_user(session, as_user)
        row = batches.stop(session, evaluation=service.get(session, evaluation), by=by)
        console.print(f"Evaluation {row.id} was stopped.")


@evaluations.command("keep")
def keep_prompts(
    slug: str,
    file: Annotated[Path, typer.Argument(help="JSON Lines or plain lines of prompts.", exists=True, dir_okay=False)],
    as_user: ActAs = None,
) -> None:
    """Keep prompts for evaluation: nobody else is asked about them, and no run learns from them."""
    with read_session() as session:
        project, by = projects.get(session, slug), acting_user(session, as_user)
    given = keeping.read(file.read_bytes())
    console.print(keeping.keep(get_engine(), project_id=project.id, given=given, by_id=by.id).sentence)


@evaluations.command("automatic")
def start_automatically(
    slug: str,
    on: Annotated[bool, typer.Option("--on/--off", help="Whether every run that succeeds starts one.")] = True,
    as_user: ActAs = None,
) -> None:
    """Compare each new checkpoint blind with its parent, without being asked."""
    with write_session() as session:
        project = projects.get(session, slug)
        projects.update(session, project=project, by=acting_user(session, as_user), evaluates_runs=on)
    console.print("Each run that succeeds starts an evaluation." if on else "Runs start no evaluations.")


def _row(row: Evaluation) -> dict[str, Any]:
    return {
        "id": row.id,
        "number": row.number,
        "state": row.state.value,
        "checkpoint": row.checkpoint_id,
        "against": f"checkpoint {row.opponent_id}" if row.opponent_id else row.opponent_model,
        "goal": row.goal,
        "prompts": row.prompts.get("count", row.maximum),
        "word": row.word,
        "plan": row.plan_sha256[:12],
        "job": row.job_id,
        "reason": row.reason,
    }
