"""prefloop guess"""

from typing import Annotated

import typer

from app.commands.context import acting_user, console
from app.commands.options import ActAs
from app.db import read_session, write_session
from app.errors import Invalid
from app.services.collecting import projects
from app.services.loop import guesses


def guess(
    slug: str,
    pair: Annotated[int | None, typer.Option(help="The pair that was shown.")] = None,
    side: Annotated[str | None, typer.Option(help="left or right: which answer is the new model's.")] = None,
    as_user: ActAs = None,
) -> None:
    """After a batch: guess which answer of a pair was new. Without a side it shows the next pair that you judged."""
    if side is not None:
        if pair is None or side not in ("left", "right"):
            raise Invalid("A guess names a pair and a side.", "For example: --pair 12 --side left")
        with write_session() as session:
            guesses.record(
                session,
                project=projects.get(session, slug),
                user=acting_user(session, as_user),
                pair_id=pair,
                side="left" if side == "left" else "right",
            )
    with read_session() as session:
        riddle = guesses.following(session, project=projects.get(session, slug), user=acting_user(session, as_user))
    if riddle is None:
        console.print("There is nothing to guess on: you judged no pair with a winner in a batch that has ended.")
        return
    console.print(f"Pair {riddle.pair_id}, {riddle.number} of {riddle.of}. Which answer is the new model's?")
    for message in riddle.prompt:
        console.print(f"{message['role']}: {message['content']}")
    console.print(f"\nleft:\n{riddle.left}\n\nright:\n{riddle.right}\n")
    console.print(f"Say it: prefloop guess {slug} --pair {riddle.pair_id} --side left (or right)")
