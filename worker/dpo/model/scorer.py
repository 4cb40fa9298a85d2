"""PairScorer: log-probabilities of both completions of every pair in one forward.

The trainer wraps this module, not the model, in DDP or FSDP, so nothing that it computes bypasses the wrapper.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.dpo.data.pairs import TokenPair
from worker.dpo.model import compiled, flex_attention, layers
from worker.dpo.model.attention import NAME, has_fixed_positions
from worker.dpo.model.head import logit_shape, sequence_logps, sums
from worker.dpo.rows.masks import Layout
from worker.dpo.rows.packing import Packing, PlainPacking, SharedPacking
from worker.dpo.rows.rows import Rows, plain_rows, shared_rows

T = TypeVar("T")


class PairScorer(nn.Module):
    """Scores pairs with a causal language model, with or without a LoRA adapter around it.

    shared: prompt once for both completions. own_head: log-probabilities by `head.py` at completion positions only;
    False takes the model's own logits at all positions, for a head that isn't a linear layer.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        shared: bool,
        own_head: bool = True,
        chunk_bytes: int = 64 << 20,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.shared = shared
        self.own_head = own_head
        self.chunk_bytes = chunk_bytes
        self.autocast = autocast
        # Whether the backward may run parts of the forward again.
        self.recomputes = False
        # Positions that depend on the longest line of a forward would make a score depend on its neighbours.
        self.line_by_line = not has_fixed_positions(self.causal_lm.config.get_text_config())
        # Kept on the model: a second scorer of it finds the first one's attention in place.
        if not hasattr(self.causal_lm, "plain_attention"):
            self.causal_lm.plain_attention = self.causal_lm.config._attn_implementation

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model inside, whose linear layers may carry LoRA matrices."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def fused_layers(self) -> bool:
        """Whether the decoder's layers run in their fused form (`layers.install`)."""
        return self.compiled_layers or bool(layers.installed(self.causal_lm.base_model))

    @property
    def compiled_layers(self) -> bool:
        """Whether the decoder's layers run compiled (`compiled.install`)."""
        return compiled.installed(self.causal_lm.base_model)

    def use_layers(self, kind: str) -> None:
        """Have the model's layers run `compiled`, `partly compiled` (all but the attention's kernel, which is compiled for
        itself), `fused`, or, where empty, as transformers has them."""
        compiled.remove(self.causal_lm.base_model)
        layers.remove(self.model)
        if kind.endswith("compiled"):
            compiled.install(self.causal_lm.base_model, whole=kind == "compiled")
        elif kind == "fused":
            layers.install(self.model)

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """The tensors of `pairs` in this scorer's layout, on its device."""
        if self.shared:
            rows = shared_rows(pairs)
            # Three blocks at least: of one block, a row would be compiled for as a case of its own.
            return (rows.padded(flex_attention.BLOCK, least=3) if self.device.type == "cuda" else rows).to(self.device)
        pad = self.causal_lm.config.get_text_config().pad_token_id
        return plain_rows(pairs, pad_id=pad if isinstance(pad, int) and pad >= 0 else 0).to(self.device)

    def packing(self, pairs: Sequence[TokenPair]) -> Packing:
        """What pairs take of a token budget in this scorer's layout."""
        return SharedPacking(pairs) if self.shared else PlainPacking(pairs)

    def forward(self, rows: Rows) -> Tensor:
        """(2, pairs) sums of completion log-probabilities in nats, chosen first."""
        model = self.causal_lm
        self._choose_attention(model, rows)
        device = rows.input_ids.device.type
        with torch.autocast(device, dtype=self.autocast) if self.autocast is not None else nullcontext():
            logps = self._logps(model, rows)
        return logps.view(2, rows.pairs)

    def state_sums(self, rows: Rows) -> Tensor:
        """(2, pairs, width) float64 sums of the decoder's states before each completion token, chosen first."""
        model = self.causal_lm
        self._choose_attention(model, rows)
        states = self._states(model.base_model, rows).double()
        sums_ = states.new_zeros(2 * rows.pairs, states.shape[-1]).index_add(0, rows.owner, states)
        return sums_.view(2, rows.pairs, -1)

    def _choose_attention(self, model: PreTrainedModel, rows: Rows) -> None:
        wanted = NAME if rows.layout is not None else model.plain_attention
        if model.config._attn_implementation != wanted:
            model.set_attn_implementation(wanted)

    def _logps(self, model: PreTrainedModel, rows: Rows) -> Tensor:
        if not self.own_head:
            logits = self._states(model, rows)
            tokens = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
            tokens = tokens.gather(1, rows.target[:, None]).squeeze(1)
            return sums(tokens, rows.owner, 2 * rows.pairs)
        read = None if self.recomputes or rows.layout is None else rows.read
        with layers.reading(read), compiled.shadowed(model.base_model, keep=self.recomputes):
            states = self._states(model.base_model, rows)
        return sequence_logps(
            states,
            model.get_output_embeddings(),
            rows.target,
            rows.owner,
            sequences=2 * rows.pairs,
            shape=logit_shape(model.config.get_text_config()),
            chunk_bytes=self.chunk_bytes,
        )

    def _states(self, part: nn.Module, rows: Rows) -> Tensor:
        """(completion tokens, width) what `part` (the decoder, or all of the model) gives where `rows.source` points."""
        if rows.lengths is None or not self.line_by_line:
            return self._call(part, rows.input_ids, rows.position_ids, rows.layout).flatten(0, 1)[rows.source]
        width = rows.input_ids.shape[1]
        blocks = []
        for number, length in enumerate(rows.lengths):
            line = slice(number, number + 1)
            states = self._call(part, rows.input_ids[line, :length], rows.position_ids[line, :length], None)[0]
            blocks.append(states[rows.source[(rows.source // width) == number] - number * width])
        return torch.cat(blocks)

    def _call(self, part: nn.Module, input_ids: Tensor, position_ids: Tensor, layout: Layout | None) -> Tensor:
        inputs: dict = {"input_ids": input_ids, "use_cache": False}
        if "position_ids" in inspect.signature(part.forward).parameters:
            inputs["position_ids"] = position_ids
        if layout is not None:
            inputs["prefix_layout"] = layout
            if compiled.installed(part):
                window = getattr(self.causal_lm.config.get_text_config(), "sliding_window", None)
                inputs["prefix_layout"] = compiled.masks(part, layout, window, input_ids.device)
        return part(**inputs)[0]

    def use_plain_attention(self) -> None:
        """Have the model attend as transformers does, to generate text; the next forward of rows switches back."""
        self.causal_lm.set_attn_implementation(self.causal_lm.plain_attention)

    def lend(self, work: Callable[[nn.Module], T]) -> T:
        """What `work` makes of the model inside, such as generated text; a method, so that FSDP gathers its weights for it."""
        return work(self.model)
