"""A model as the decoding loop calls it: rows of tokens in, states and logits out; and whether it can be called so."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from worker.dpo.decoding.attention import NAME, Prompts, Step
from worker.dpo.decoding.cache import Block
from worker.dpo.decoding.lines import Limits
from worker.dpo.ground.memory import memory_available
from worker.dpo.model.attention import NotShareable, require_shareable
from worker.dpo.model.head import logit_shape
from worker.dpo.rows.masks import Layout, Strand

# Tokens of a prompt that the two ways are compared on, and steps after it.
COMPARED, STEPS = 48, 3
# Largest difference of logits, by the largest logit, that rounding explains.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


class Model:
    """A causal language model, with or without a LoRA adapter around it, whose attention is ours within `attending`."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        self.causal_lm: PreTrainedModel = whole.get_base_model() if isinstance(whole, PeftModel) else whole
        self._decoder: Any = self.causal_lm.base_model
        self._shape = logit_shape(self.causal_lm.config.get_text_config())
        self._takes_positions = "position_ids" in inspect.signature(self._decoder.forward).parameters

    @property
    def device(self) -> torch.device:
        return next(self.whole.parameters()).device

    def lines_that_fit(self, limits: Limits, *, longest: int) -> int:
        """How many lines at a time have room in memory, at most those of `limits`: half of what is free is for keys and values.

        longest: tokens of the longest prompt. Each line is counted as if it had a prompt of its own.
        """
        config = self.causal_lm.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Keys and values, and a second time while there is made more room for them.
        token = 4 * config.num_hidden_layers * heads * dim * self.causal_lm.dtype.itemsize
        line = token * (longest + limits.max_new_tokens)
        return max(1, min(limits.lines, memory_available(self.device) // 2 // line))

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Have the model attend by `decoding_attention` inside the block. Raises NotShareable for one that can't."""
        require_shareable(self.causal_lm)
        before = self.causal_lm.config._attn_implementation
        self.causal_lm.set_attn_implementation(NAME)
        try:
            yield
        finally:
            self.causal_lm.set_attn_implementation(before)

    def last_states(self, prompts: Sequence[Sequence[int]], read: Prompts) -> Tensor:
        """(prompts, width) the states of their last tokens. Their keys and values are put into `read`."""
        positions = [place for ids in prompts for place in range(len(ids))]
        states = self._call([token for ids in prompts for token in ids], positions, read)
        return states[[end - 1 for end in accumulate(map(len, prompts))]]

    def states(self, tokens: Sequence[int], positions: Sequence[int], step: Step) -> Tensor:
        """(rows, width) of a token of each line."""
        return self._call(tokens, positions, step)

    def logits(self, states: Tensor) -> Tensor:
        """(rows, vocabulary), as the model shapes them."""
        head = self.causal_lm.get_output_embeddings()
        return self._shape.apply(head(states))

    @torch.no_grad()
    def _call(self, tokens: Sequence[int], positions: Sequence[int], decoding: Prompts | Step) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(tokens)], device=self.device), "use_cache": False}
        if self._takes_positions:
            inputs["position_ids"] = torch.tensor([list(positions)], device=self.device)
        states: Tensor = self._decoder(**inputs, decoding=decoding)[0][0]
        return states


@torch.no_grad()
def require_agreement(model: Model, prompt: Sequence[int]) -> None:
    """Raise NotShareable where the loop's logits differ by more than rounding from those of the model's own forward."""
    ids = list(prompt[-COMPARED:])
    ours = []
    with model.attending():
        read = Prompts(Layout((Strand((), 0, len(ids)),)))
        ours.append(model.logits(model.last_states([ids], read))[0])
        block = Block([len(ids)], 1, [0])
        for keys, values in zip(read.keys, read.values, strict=True):
            block.add_layer([keys], [values])
        for _ in range(STEPS):
            ids.append(int(ours[-1].argmax()))
            block.start_step()
            ours.append(model.logits(model.states(ids[-1:], [len(ids) - 1], Step([block])))[0])
            block.tokens += 1
    plain = model.causal_lm(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -len(ours) :]
    wanted, given = plain.cpu().double(), torch.stack(ours).cpu().double()
    apart = float((given - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
    if not apart <= TOLERANCE[plain.dtype]:
        raise NotShareable(f"its logits would differ from those of the model's own forward by {apart:.1e}")
