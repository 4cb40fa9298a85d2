"""What is asked of a model, as tokens: an answer is one line, and those of one prompt share it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding.sampling import answer_seed


@dataclass(frozen=True, slots=True)
class Line:
    """One answer that is wanted. prompt: the number of its prompt among all; sample: its own among its prompt's."""

    prompt: int
    sample: int
    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Written:
    """An answer's tokens, without the end token. ended: by an end token, not by the limit on its length."""

    line: Line
    ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """When an answer ends, and how many lines are answered at a time. ends: the tokens that end one."""

    ends: frozenset[int]
    max_new_tokens: int
    lines: int


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, room: int | None) -> tuple[tuple[int, ...], bool]:
    """A prompt's tokens, the last `room` of them where there are more, and whether it was cut. Raises CannotEncode."""
    ids = chat.encode_prompt(tokenizer, prompt.messages, prompt.tools)
    cut = room is not None and len(ids) > room
    return tuple(ids[-room:] if cut and room is not None else ids), cut


def room_for_prompts(context: int | None, max_new_tokens: int) -> int | None:
    """Tokens that the model's context leaves a prompt; None without a limit."""
    return None if context is None else max(1, context - max_new_tokens)


def lines_of(prompts: Iterable[Sequence[int]], *, samples: int, seed: int) -> Iterator[Line]:
    """Every answer that is wanted of these prompts, in their order."""
    for number, ids in enumerate(prompts):
        for sample in range(samples):
            yield Line(number, sample, tuple(ids), answer_seed(seed, ids, sample))
