"""Answers of a model to prompts: greedy, or sampled so that the same seed gives the same answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat
from worker.dpo.data.answers import Answer
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding import plain
from worker.dpo.decoding.lines import Limits, Line, Written, lines_of, prompt_ids, room_for_prompts
from worker.dpo.decoding.loop import Loop
from worker.dpo.decoding.sampling import Sampling
from worker.dpo.decoding.states import Model, require_agreement
from worker.dpo.ground.memory import is_out_of_memory
from worker.dpo.model.attention import require_shareable

LINES = 64


def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = LINES,
    together: bool = False,
) -> list[Answer]:
    """One answer to each prompt, its text without special tokens.

    temperature: 0 is greedy, above 0 samples from the whole distribution. An answer depends on its prompt and the seed, and
    on the others only by rounding. A prompt that leaves no room in the model's context loses its beginning. The random
    state and the model's mode are as before afterwards. together: all processes call this with the same prompts, as
    sharded weights need it. Raises refusals.CannotEncode.
    """
    chat.ensure_template(tokenizer)
    room = room_for_prompts(context_of(model), max_new_tokens)
    ids = [prompt_ids(tokenizer, prompt, room)[0] for prompt in prompts]
    lines = list(lines_of(ids, samples=1, seed=seed))
    limits = Limits(chat.end_token_ids(tokenizer), max_new_tokens, batch_size)
    written = write(model, lines, Sampling(temperature), limits, together=together)
    by_prompt = {one.line.prompt: answer_of(tokenizer, one) for one in written}
    return [by_prompt[number] for number in range(len(prompts))]


def write(
    model: Any,
    lines: Sequence[Line],
    sampling: Sampling,
    limits: Limits,
    *,
    together: bool = False,
    between: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda text: None,
) -> Iterator[Written]:
    """The answers that are wanted, each as soon as it is there, in no order.

    By the decoding loop (`loop.py`) where it serves the model and agrees with it, else by transformers, which `log` is told.
    together: as in `generate`. between: called before each token; what it raises ends all. The model's mode is as before
    afterwards.
    """
    training = model.training
    model.eval()
    try:
        ours = None if together or not lines else _served(model, lines[0], log)
        if ours is None:
            yield from plain.write(model, lines, sampling, limits, together=together, between=between)
        else:
            lines_at_once = ours.lines_that_fit(limits, longest=max(len(line.ids) for line in lines))
            with ours.attending():
                yield from Loop(ours, sampling, replace(limits, lines=lines_at_once), between=between).run(lines)
    finally:
        model.train(training)


def _served(model: nn.Module, line: Line, log: Callable[[str], None]) -> Model | None:
    """The model for the decoding loop, or None where transformers must do it."""
    try:
        ours = Model(model)
        require_shareable(ours.causal_lm)
        require_agreement(ours, line.ids)
    except (RuntimeError, TypeError, ValueError) as reason:
        if is_out_of_memory(reason):
            raise
        log(f"transformers answers, slower than the engine would: {reason}.")
        return None
    return ours


def context_of(model: Any) -> int | None:
    """Tokens that a model reads at most, where its configuration says so."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def answer_of(tokenizer: Tokenizer, written: Written) -> Answer:
    """With its text, without special tokens."""
    return Answer(str(tokenizer.decode(written.ids, skip_special_tokens=True)), written.ids, written.ended)
