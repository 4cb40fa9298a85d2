"""All answers that a file of prompts is to get: what is asked, what is there already, and how far it is."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat, reading
from worker.dpo.data.answers import Answer
from worker.dpo.data.pairs import Problem, Prompt
from worker.dpo.decoding import generation
from worker.dpo.decoding.lines import Limits, Line, lines_of, prompt_ids, room_for_prompts
from worker.dpo.decoding.sampling import Sampling
from worker.dpo.decoding.written import AnswerFile, OtherAnswers
from worker.dpo.ground.errors import DataFileError
from worker.dpo.ground.events import Event, EventWriter
from worker.dpo.ground.stopping import Stop

# Seconds between two events that say how far it is.
TELL = 1.0


@dataclass(frozen=True, slots=True)
class Asking:
    """What is wanted of each prompt. limit: of the first so many prompts only; None is all."""

    data: Path
    sampling: Sampling
    samples: int
    seed: int
    max_new_tokens: int
    lines: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts that can be answered, with their tokens, and the number of lines that can't."""

    prompts: list[Prompt]
    ids: list[tuple[int, ...]]
    left_out: int


def read(asking: Asking, tokenizer: Tokenizer, model: Any, on_problem: Callable[[Problem], None]) -> Asked:
    """The prompts of the file. Those that hold a token without weights are left out (`unknown_token`), those that are too
    long for the model's context lose their beginning (`prompt_truncated`). Raises DataFileError."""
    left_out = 0

    def told(problem: Problem) -> None:
        nonlocal left_out
        left_out += problem.dropped
        on_problem(problem)

    rows = model.get_input_embeddings().weight.shape[0]
    room = room_for_prompts(generation.context_of(model), asking.max_new_tokens)
    asked = Asked([], [], 0)
    for prompt in reading.read_prompts(asking.data, on_problem=told, tokenizer=tokenizer, limit=asking.limit):
        ids, cut = prompt_ids(tokenizer, prompt, room)
        if not ids or max(ids) >= rows:
            told(_unanswerable(prompt.line, ids, rows))
            continue
        if cut:
            message = (
                f"The prompt was cut to its last {len(ids)} tokens, since answers may have {asking.max_new_tokens}."
            )
            told(Problem(prompt.line, "prompt_truncated", message, dropped=False))
        asked.prompts.append(prompt)
        asked.ids.append(ids)
    if not asked.prompts:
        raise DataFileError(f"{asking.data} has no prompt that this model can answer.")
    return Asked(asked.prompts, asked.ids, left_out)


def _unanswerable(line: int, ids: tuple[int, ...], rows: int) -> Problem:
    if not ids:
        return Problem(line, "empty_prompt", "The prompt has no tokens.", dropped=True)
    message = (
        f"The prompt holds token {max(ids)} of the tokenizer, for which the model, of {rows:,} tokens, has no weights."
    )
    return Problem(line, "unknown_token", message, dropped=True)


def answers(
    model: Any,
    tokenizer: Tokenizer,
    asked: Asked,
    asking: Asking,
    *,
    wanted: Callable[[Line], bool] = lambda line: True,
    between: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Line, Answer]]:
    """The answers to all lines that are `wanted`, each as soon as it is there."""
    lines = [line for line in lines_of(asked.ids, samples=asking.samples, seed=asking.seed) if wanted(line)]
    limits = Limits(chat.end_token_ids(tokenizer), asking.max_new_tokens, asking.lines)
    for written in generation.write(model, lines, asking.sampling, limits, between=between, log=log):
        yield written.line, generation.answer_of(tokenizer, written)


def record(prompt: Prompt, line: Line, answer: Answer) -> dict[str, Any]:
    """An answer as a line of the file."""
    finish = "stop" if answer.ended else "length"
    facts = {"line": prompt.line, "sample": line.sample, "seed": line.seed, "completion": answer.text}
    return facts | {"tokens": len(answer.ids), "finish": finish}


def fill(
    model: Any, tokenizer: Tokenizer, asked: Asked, asking: Asking, file: AnswerFile, events: EventWriter, stop: Stop
) -> dict[str, Any]:
    """Add to the file what is missing in it, and say how far it is; returns what `done` tells.

    Raises OtherAnswers where the file holds an answer to another prompt in the same line, Terminated, NotFinite, DiskFull.
    """
    total = len(asked.prompts) * asking.samples
    lines = list(lines_of(asked.ids, samples=asking.samples, seed=asking.seed))
    kept = sum(_is_kept(file, asked, line) for line in lines)
    events.emit(Event.STATE, stage="generating", total_steps=total)
    if kept:
        events.emit(Event.LOG, message=f"{kept} of {total} answers are there already.", kept=kept)
    events.emit(Event.STEP, kept, total_steps=total)
    started = told = time.monotonic()
    made = tokens = cut = 0
    missing = answers(
        model,
        tokenizer,
        asked,
        asking,
        wanted=lambda line: not _is_kept(file, asked, line),
        between=stop.check,
        log=lambda text: events.emit(Event.LOG, message=text),
    )
    for line, answer in missing:
        file.add(record(asked.prompts[line.prompt], line, answer))
        made, tokens, cut = made + 1, tokens + len(answer.ids), cut + (not answer.ended)
        now = time.monotonic()
        if now - told >= TELL or made + kept == total:
            told, seconds = now, max(now - started, 1e-9)
            events.emit(
                Event.STEP,
                kept + made,
                total_steps=total,
                eta_seconds=round(seconds / made * (total - kept - made), 1),
                tokens=tokens,
                tokens_per_second=round(tokens / seconds, 1),
            )
    seconds = time.monotonic() - started
    return {
        "path": str(file.path),
        "answers": total,
        "made": made,
        "prompts": len(asked.prompts),
        "left_out": asked.left_out,
        "tokens": tokens,
        "at_the_limit": cut,
        "seconds": round(seconds, 2),
    }


def _is_kept(file: AnswerFile, asked: Asked, line: Line) -> bool:
    number = asked.prompts[line.prompt].line
    kept = file.answers.get((number, line.sample))
    if kept is not None and kept["seed"] != line.seed:
        raise OtherAnswers(
            f"{file.path} holds an answer to another prompt in line {number}, or of another seed. Name another file, or "
            "say --fresh to drop its answers."
        )
    return kept is not None
