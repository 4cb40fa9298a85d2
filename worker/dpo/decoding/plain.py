"""Answers by transformers' own `generate`, in left-padded batches: for models that `loop.py` doesn't serve."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from worker.dpo.decoding.lines import Limits, Line, Written
from worker.dpo.decoding.sampling import Sampling, choose, uniforms
from worker.dpo.model.attention import SHAREABLE_LAYERS


def write(
    model: Any,
    lines: Sequence[Line],
    sampling: Sampling,
    limits: Limits,
    *,
    together: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Written]:
    """The answers, each batch's as soon as it is done. Lines of like length are answered together, longest first.

    A model with a recurrent state gets one line at a time, since padding would go through it. together: all processes call
    this with the same lines, as sharded weights need it. between: called before each token; what it raises ends all.
    """
    ends = sorted(limits.ends)
    # The model's own generation_config (a penalty, a top_p) must not change the answers.
    settings = GenerationConfig(
        max_new_tokens=limits.max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    device = next(model.parameters()).device
    waiting = iter(sorted(lines, key=lambda line: len(line.ids), reverse=True))
    size = max(1, limits.lines) if takes_padding(model) else 1
    while batch := list(islice(waiting, size)):
        width = max(len(line.ids) for line in batch)
        padding = [width - len(line.ids) for line in batch]
        inputs = [[ends[0]] * short + list(line.ids) for short, line in zip(padding, batch, strict=True)]
        mask = [[0] * short + [1] * (width - short) for short in padding]
        with torch.no_grad():
            whole = model.generate(
                inputs=torch.tensor(inputs, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Chosen(sampling, batch, limits.max_new_tokens)]),
                stopping_criteria=StoppingCriteriaList([_Between(between)]),
                synced_gpus=together,
            )
        for line, ids in zip(batch, whole[:, width:].tolist(), strict=True):
            # A batch goes on until its last line is done.
            own = tuple(takewhile(lambda token: token not in limits.ends, ids))
            yield Written(line, own, ended=len(own) < len(ids))


class _Chosen(LogitsProcessor):
    """Leaves each line the token that `choose` chooses."""

    def __init__(self, sampling: Sampling, lines: Sequence[Line], tokens: int) -> None:
        self.sampling = sampling
        self.chances = iter(zip(*(uniforms(line.seed, tokens) for line in lines), strict=True))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """scores: (lines, vocabulary) logits."""
        chosen = choose(scores, self.sampling, next(self.chances))
        only: Any = torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)
        return only


class _Between(StoppingCriteria):
    def __init__(self, between: Callable[[], None]) -> None:
        self.between = between

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.between()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def takes_padding(model: Any) -> bool:
    """Whether a masked token before the prompt changes nothing: in attention it doesn't, in a recurrent state it may."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    inside = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        layers <= SHAREABLE_LAYERS
        and getattr(inside, "_supports_attention_backend", False)
        and not getattr(config, "alibi", False)
    )
