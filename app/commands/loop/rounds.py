"""prefloop loop"""

import time
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer

from app.commands.context import acting_user, console, pairs_of
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Round, RoundState, RoundStep
from app.services.collecting import projects
from app.services.loop.generating.arms import Arms
from app.services.loop.rounding import rounds, steps
from app.services.loop.rounding.plan import RoundPlan
from app.services.training import parents
from app.storage import get_storage

EXIT = {RoundState.FINISHED: 0, RoundState.FAILED: 1, RoundState.STOPPED: 2}
TIMEOUT = 4


class Do(StrEnum):
    START = "start"
    SHOW = "show"
    STOP = "stop"
    RETRY = "retry"


def loop(
    slug: str,
    do: Annotated[
        Do, typer.Argument(help="start a round (the default), show it, stop it, or retry the step that failed.")
    ] = Do.START,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="Who gives new answers: base:NAME, checkpoint:ID, endpoint:NAME; may be repeated. None: judge what is there.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers of each source to a prompt.")] = 2,
    prompts: Annotated[int, typer.Option(help="How many prompts are answered.")] = 200,
    arms: Annotated[
        str,
        typer.Option(help="Shares of the prompts by arm: random=0.5,margin=0.3,diversity=0.2. Default: random alone."),
    ] = "",
    keep: Annotated[float | None, typer.Option(help="Share of the candidate pairs that is asked.")] = None,
    judgments: Annotated[
        int | None, typer.Option(help="How many judgments to wait for. Default: until every pair is judged.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model of the run. Default: the project's.")] = None,
    from_checkpoint: Annotated[
        int | None,
        typer.Option(help="The run starts from this checkpoint, its reference too. Default: from the base model."),
    ] = None,
    new_pairs_only: Annotated[
        bool, typer.Option("--new-pairs-only", help="With --from-checkpoint: train only on pairs that it hasn't seen.")
    ] = False,
    preset: Annotated[str, typer.Option(help="Preset of the run.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the run as key=value; may be repeated.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="parent, base, a checkpoint's id, or nothing for no evaluation.")
    ] = "parent",
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluation", help="A setting of the evaluation as key=value, such as maximum=200; may be repeated."
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Follow the round until it ends. Exit 0: finished, 1: failed, 2: stopped, 4: timeout. It goes on without it too.",
        ),
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: give up after so many minutes, exit 4.")] = None,
    as_user: ActAs = None,
    as_json: AsJson = False,
) -> None:
    """The whole loop by one command: new answers, judgments, snapshot, run, blind comparison, verdict."""
    with read_session() as session:
        by, project = acting_user(session, as_user), projects.get(session, slug)
        current = rounds.current(session, project=project)
    storage = get_storage(get_settings())
    if do is Do.START:
        base = model or _base_of(from_checkpoint) or project.default_base_model
        if not base:
            raise Invalid(
                f"Project {slug} has no default base model.", "Name one: --model NAME (see: prefloop models list)"
            )
        chosen = Arms.parse(arms, keep)
        plan = RoundPlan.of(
            {
                "base_model": base, "sources": source or [], "samples": samples, "limit": prompts, "judgments": judgments,
                "arms": {arm.value: share for arm, share in chosen.shares.items()}, "keep": keep,
                "preset": preset, "config": pairs_of(settings or []), "opponent": against,
                "evaluation": pairs_of(evaluation or []), "from_checkpoint": from_checkpoint,
                "new_pairs_only": new_pairs_only,
            }
        )  # fmt: skip
        steps.require(get_engine(), plan, project=project)
        with write_session() as session:
            row, _ = rounds.start(session, project=project, plan=plan, by=by)
    else:
        row = current if current is not None else _newest(slug)
        if do is not Do.SHOW:
            with write_session() as session:
                change = rounds.stop if do is Do.STOP else rounds.retry
                row = change(session, row=rounds.get(session, row.id), by=by)
    if do in (Do.START, Do.RETRY) or wait:
        steps.advance(get_engine(), storage, row.id)
    _tell(row.id, as_json)
    if wait:
        raise typer.Exit(_follow(row.id, timeout, as_json))


def _base_of(checkpoint_id: int | None) -> str:
    if checkpoint_id is None:
        return ""
    with read_session() as session:
        return parents.find(session, checkpoint_id).base_model


def _newest(slug: str) -> Round:
    with read_session() as session:
        page = rounds.listing(session, project=projects.get(session, slug), size=1)
    if not page.items:
        raise NotFound(f"Project {slug} has had no round.", f"Start one: prefloop loop {slug}")
    return page.items[0]


def _follow(round_id: int, timeout: float | None, as_json: bool) -> int:
    """Carries a round on and tells each change, until it ends. Returns the exit status."""
    storage, began, told = get_storage(get_settings()), time.monotonic(), _place(round_id)
    while True:
        steps.advance(get_engine(), storage, round_id)
        if (place := _place(round_id)) != told:
            _tell(round_id, as_json)
            told = place
        if place[0] in EXIT:
            return EXIT[place[0]]
        if timeout is not None and time.monotonic() - began > timeout * 60:
            return TIMEOUT
        time.sleep(get_settings().stream_poll_seconds * 4)


def _place(round_id: int) -> tuple[RoundState, RoundStep]:
    with read_session() as session:
        row = rounds.get(session, round_id)
        return row.state, row.step


def _tell(round_id: int, as_json: bool) -> None:
    with read_session() as session:
        row = rounds.get(session, round_id)
        waits = row.state is RoundState.RUNNING and row.step is RoundStep.JUDGMENTS
        left = steps.waits_for(session, row) if waits else 0
    told: dict[str, Any] = {
        "round": row.number, "state": row.state.value, "step": row.step.value, "waits_for": left, "problem": row.problem,
        "generation_job_id": row.generation_job_id, "snapshot_id": row.snapshot_id,
        "training_job_id": row.training_job_id, "checkpoint_id": row.checkpoint_id, "evaluation_id": row.evaluation_id,
    }  # fmt: skip
    if as_json:
        print(orjson.dumps(told).decode())
        return
    words = f"Round {row.number}: {row.state.value}, {row.step.value}"
    if left:
        words += f"; waits for {left:,} " + ("judgments" if rounds.plan_of(row).judgments else "pairs to be judged")
    console.print(f"{words}. {row.problem}".strip())
    console.print(f"{get_settings().base_url}/projects/{row.project.slug}/rounds/{row.number}")
