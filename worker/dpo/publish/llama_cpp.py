"""llama.cpp as a reader of GGUF files, where the Python package `xllamacpp` is installed.

It runs in a process of its own: a file that it can't take may end that process, and what it prints must not stand among
the engine's events.
"""

import importlib.metadata
import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.dpo.publish.figures import Answer, Rendered, Scores
from worker.dpo.publish.llama_server import serve

PACKAGE = "xllamacpp"


class Unreadable(Exception):
    """llama.cpp doesn't take the file, or ended while it read it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What llama.cpp makes of a file.

    texts, ids: of each conversation, through the file's own chat template and tokenizer. scores: of each answer. ends:
    for each token that should end an answer, whether it does.
    """

    texts: list[str]
    ids: list[list[int]]
    scores: list[Scores]
    ends: dict[int, bool]


def version() -> str | None:
    """The installed package's version; None where it isn't installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    return importlib.metadata.version(PACKAGE)


def read(
    path: Path,
    prompts: Sequence[Rendered],
    answers: Sequence[Answer],
    ends: Sequence[int],
    *,
    check: Callable[[], None] = lambda: None,
) -> Reading:
    """Have llama.cpp load a file, render the conversations and score the answers; `check` is called while it works.

    Raises Unreadable.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    request = {
        "path": str(path),
        "conversations": [prompt.messages for prompt in prompts],
        "answers": [(answer.prompt.ids, answer.ids) for answer in answers],
        "ends": list(ends),
        "threads": torch.get_num_threads(),
    }
    process = context.Process(target=serve, args=(theirs, request), daemon=True)
    process.start()
    theirs.close()
    try:
        while not ours.poll(0.2):
            check()
        reply = ours.recv()
    except EOFError:
        process.join()
        raise Unreadable(f"llama.cpp ended with status {process.exitcode} while it read the file.") from None
    finally:
        # Its threads may wait for requests that never come.
        process.kill()
        process.join()
        ours.close()
    if "problem" in reply:
        raise Unreadable(reply["problem"])
    return Reading(reply["texts"], reply["ids"], [Scores(*scores) for scores in reply["scores"]], reply["ends"])
