"""Answers of a model to prompts: greedy, or sampled so that the same seed gives the same answers."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import chat
from worker.dpo.data.answers import Answer
from worker.dpo.data.pairs import Prompt
from worker.dpo.model.attention import SHAREABLE_LAYERS

BATCH_SIZE = 8


def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    together: bool = False,
) -> list[Answer]:
    """One answer to each prompt, its text without special tokens.

    temperature: 0 is greedy, above 0 samples from the whole distribution. An answer depends on its prompt, its place in
    the list and the seed, and on the others only by the rounding of a padded batch. A prompt that leaves no room in the
    model's context loses its beginning. The random state and the model's mode are as before afterwards. together: all
    processes call this with the same prompts, as sharded weights need it. Raises refusals.CannotEncode.
    """
    return list(
        answers(
            model,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            together=together,
        )
    )


def answers(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = BATCH_SIZE,
    together: bool = False,
) -> Iterator[Answer]:
    """`generate`'s answers, each as soon as its batch is done."""
    chat.ensure_template(tokenizer)
    ends = sorted(chat.end_token_ids(tokenizer))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    # The model's own generation_config (a penalty, a top_p) must not change the answers.
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.0, eos_token_id=ends, pad_token_id=pad
    )
    context = getattr(model.config, "max_position_embeddings", None)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for first, batch in _batches(prompts, batch_size if _takes_padding(model) else 1):
            lines = [chat.encode_prompt(tokenizer, prompt.messages, prompt.tools) for prompt in batch]
            if context:
                lines = [ids[-max(1, context - max_new_tokens) :] for ids in lines]
            width = max(map(len, lines))
            inputs = torch.tensor([[pad] * (width - len(ids)) + ids for ids in lines], device=device)
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in lines], device=device)
            chance = (
                [SeededSampling(temperature, range(seed + first, seed + first + len(batch)), device)]
                if temperature > 0
                else []
            )
            with torch.no_grad():
                whole = model.generate(
                    inputs=inputs,
                    attention_mask=mask,
                    generation_config=settings,
                    logits_processor=LogitsProcessorList(chance),
                    synced_gpus=together,
                )
            yield from (_answer(tokenizer, ids, ends) for ids in whole[:, width:].tolist())
    finally:
        model.train(training)


class SeededSampling(LogitsProcessor):
    """Turns the most likely token into a drawn one: argmax of logit/temperature plus Gumbel noise is a sample of the softmax.

    (The Gumbel-max trick; Maddison, Tarlow and Minka, "A* Sampling", 2014.) Each line of a batch has a generator of its
    own, so that what it draws doesn't depend on the lines beside it.
    """

    def __init__(self, temperature: float, seeds: Iterable[int], device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """scores: (lines, vocabulary) logits."""
        noisy: Any = scores.float() / self.temperature
        for line, generator in zip(noisy, self.generators, strict=True):
            line -= torch.empty_like(line).exponential_(generator=generator).log_()
        return noisy


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[tuple[int, Sequence[Prompt]]]:
    for first in range(0, len(prompts), max(1, size)):
        yield first, prompts[first : first + max(1, size)]


def _takes_padding(model: Any) -> bool:
    """Whether a masked token before the prompt changes nothing: in attention it doesn't, in a recurrent state it may."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    inside = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        layers <= SHAREABLE_LAYERS
        and getattr(inside, "_supports_attention_backend", False)
        and not getattr(config, "alibi", False)
    )


def _answer(tokenizer: Tokenizer, ids: list[int], ends: list[int]) -> Answer:
    """The ids before the first end token, since a batch goes on until its last line is done."""
    own = list(takewhile(lambda token: token not in ends, ids))
    return Answer(str(tokenizer.decode(own, skip_special_tokens=True)), tuple(own), ended=len(own) < len(ids))
