"""prefloop generate"""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app.commands.context import acting_user, console
from app.commands.jobs import follow
from app.commands.options import ActAs
from app.config import get_settings
from app.db import get_engine, read_session
from app.errors import Invalid
from app.models import Pairing
from app.services.collecting import projects
from app.services.loop import generations
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import AnswerSource, Sampling, drawn_seed
from app.services.loop.generations import Order


def generate(
    slug: str,
    sources: Annotated[
        list[str], typer.Option("--from", help="base:NAME, checkpoint:ID or endpoint:NAME; may be repeated.")
    ],
    samples: Annotated[int, typer.Option(help="Answers of each source to each prompt.")] = 1,
    pairing: Annotated[Pairing, typer.Option(help="Which answers are put against each other.")] = Pairing.ACROSS,
    arms: Annotated[str, typer.Option(help="Shares of the prompts by arm: random=0.5,margin=0.3,diversity=0.2.")] = "",
    keep: Annotated[float | None, typer.Option(help="Share of the candidate pairs that is asked.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Prompts: a text a line, or JSON Lines.")
    ] = None,
    import_id: Annotated[int | None, typer.Option("--import", help="The prompts of this import.")] = None,
    split: Annotated[str, typer.Option(help="The prompts of a split alone: train or eval.")] = "",
    limit: Annotated[int, typer.Option(help="Prompts of the project at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely word.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Of the likeliest words that together have this probability.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Draws prompts and words. Default: a new one.")] = None,
    cost_only: Annotated[bool, typer.Option("--cost", help="Say what it would take, and start nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    as_user: ActAs = None,
) -> None:
    """Ask models for new answers to prompts, and make pairs of them to be judged."""
    seed = drawn_seed() if seed is None else seed
    order = Order(
        sources=[AnswerSource.parse(text) for text in sources],
        sampling=Sampling(temperature, top_p, max_new_tokens, seed).checked(),
        samples=samples,
        pairing=pairing,
        rule=Rule(_from(import_id, split), import_id, limit, seed),
        given=_read(prompts) if prompts else (),
        arms=Arms.parse(arms, keep),
    )
    with read_session() as session:
        by, project = acting_user(session, as_user), projects.get(session, slug)
        cost = generations.estimate(session, project=project, order=order)
    for line in cost.sentences:
        console.print(line)
    if cost_only:
        return
    number = generations.begin(get_engine(), project=project, by_id=by.id, order=order).job_id
    console.print(
        f"Queued generation {number}. Follow it: prefloop jobs watch {number}, or {get_settings().base_url}/jobs/{number}"
    )
    if watch:
        follow(number)


def _from(import_id: int | None, split: str) -> From:
    if import_id is not None:
        return From.IMPORT
    if split and split not in (From.TRAIN, From.EVAL):
        raise Invalid(f"There is no split “{split[:40]}”.", "Write train or eval, or leave it out.")
    return From(split) if split else From.PROJECT


def _read(path: Path) -> list[Any]:
    """A prompt a line: a text, or JSON with `prompt` or `messages`."""
    given: list[Any] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix not in (".jsonl", ".json"):
            given.append(line)
            continue
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise Invalid(f"Line {number} of {path} isn't JSON.", "Write one object a line, with `prompt`.") from None
        given.append(told.get("prompt", told.get("messages")) if isinstance(told, dict) else told)
    return given
