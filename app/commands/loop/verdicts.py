"""prefloop verdict"""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from app.commands.context import console
from app.commands.options import AsJson
from app.config import get_settings
from app.db import get_engine, read_session
from app.models import EvaluationState
from app.services.loop import verdicts
from app.services.loop.evaluating import since
from app.services.loop.verdict import words
from app.services.loop.verdict.shape import Kept
from app.stats.loop.decision import Stop, Word

GOAL, WORSE, UNDECIDED, VOID, TIMEOUT = range(5)
PAUSE = 2.0


def verdict(
    evaluation: Annotated[int, typer.Argument(help="The evaluation's id.", metavar="ID")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; the exit code says what it is.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which waiting ends with exit code 4.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an evaluation came to. Exit code with --wait: 0 goal reached, 1 worse, 2 undecided, 3 void, 4 timeout."""
    told = await_end(evaluation, timeout=timeout) if wait else verdicts.current(get_engine(), evaluation)
    with read_session() as session:
        learnt = since.learnt(session, told.evaluation)
    if as_json:
        is_void = told.evaluation.state is EvaluationState.VOID
        print(told.verdict.model_dump_json() if told.verdict and not is_void else "null")
    else:
        _print(told)
        for one in learnt:
            console.print(f"  {one.sentence}", style="yellow")
    if wait:
        raise typer.Exit(VOID if any(one.is_side for one in learnt) else exit_code(told))


def await_end(
    evaluation_id: int,
    *,
    timeout: float | None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Kept:
    """The verdict once the evaluation has ended, or as it is when the time is over."""
    began = clock()
    while True:
        told = verdicts.current(get_engine(), evaluation_id)
        if told.evaluation.state not in (EvaluationState.PREPARING, EvaluationState.ASKING):
            return told
        if timeout is not None and clock() - began >= timeout:
            return told
        pause(PAUSE)


def exit_code(told: Kept) -> int:
    """What the evaluation came to, for scripts. One that was stopped before it was decided is undecided."""
    state, row = told.evaluation.state, told.verdict
    if state is EvaluationState.VOID:
        return VOID
    if state in (EvaluationState.PREPARING, EvaluationState.ASKING):
        return TIMEOUT
    if row is None:
        return UNDECIDED
    if row.stop is Stop.GOAL:
        return GOAL
    return WORSE if row.word is Word.WORSE else UNDECIDED


def _print(told: Kept) -> None:
    row, of_row = told.evaluation, told.verdict
    title = f"Checkpoint {row.checkpoint_id} against {words.against(row)}, in {row.project.slug}"
    console.print(title)
    console.print(words.summary(row, of_row))
    for line in words.lines(of_row) if of_row and of_row.prompts else []:
        console.print(f"  {line}")
    if ending := words.ended(row, of_row):
        console.print(f"  {ending}")
    console.print(f"{get_settings().base_url}/projects/{row.project.slug}/evaluations/{row.number}")
