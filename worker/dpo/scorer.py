"""PairScorer: log-probabilities of both completions of every pair in one forward.

The trainer wraps this module, not the model, in DDP or FSDP, so nothing that it computes bypasses the wrapper.
"""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.dpo.attention import NAME
from worker.dpo.head import logit_shape, sequence_logps
from worker.dpo.pairs import TokenPair
from worker.dpo.rows import Rows, plain_length, plain_rows, shared_length, shared_rows


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
        # Kept on the model: a second scorer of it finds the first one's attention in place.
        if not hasattr(self.causal_lm, "plain_attention"):
            self.causal_lm.plain_attention = self.causal_lm.config._attn_implementation

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model inside, whose linear layers may carry LoRA matrices."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """The tensors of `pairs` in this scorer's layout, on its device."""
        if self.shared:
            return shared_rows(pairs).to(self.device)
        pad = self.causal_lm.config.get_text_config().pad_token_id
        return plain_rows(pairs, pad_id=pad if isinstance(pad, int) and pad >= 0 else 0).to(self.device)

    def cost(self, pair: TokenPair) -> int:
        """Tokens that this pair takes of a token budget when it is alone in a forward."""
        return shared_length(pair) if self.shared else 2 * plain_length(pair)

    def forward(self, rows: Rows) -> Tensor:
        """(2, pairs) sums of completion log-probabilities in nats, chosen first."""
        model = self.causal_lm
        wanted = NAME if rows.layout is not None else model.plain_attention
        if model.config._attn_implementation != wanted:
            model.set_attn_implementation(wanted)
        device = rows.input_ids.device.type
        with torch.autocast(device, dtype=self.autocast) if self.autocast is not None else nullcontext():
            logps = self._logps(model, rows)
        return logps.view(2, rows.pairs)

    def _logps(self, model: PreTrainedModel, rows: Rows) -> Tensor:
        inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids, "use_cache": False}
        if rows.layout is not None:
            inputs["prefix_layout"] = rows.layout
        else:
            inputs["attention_mask"] = rows.attention_mask
            if not _takes_positions(model):
                del inputs["position_ids"]
        if not self.own_head:
            logits = model(**inputs).logits.flatten(0, 1)[rows.source]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            tokens = torch.log_softmax(logits, -1).gather(1, rows.target[:, None]).squeeze(1)
            return torch.zeros(2 * rows.pairs, dtype=tokens.dtype, device=tokens.device).index_add(
                0, rows.owner, tokens
            )
        hidden = model.base_model(**inputs)[0].flatten(0, 1)[rows.source]
        return sequence_logps(
            hidden,
            model.get_output_embeddings(),
            rows.target,
            rows.owner,
            sequences=2 * rows.pairs,
            shape=logit_shape(model.config.get_text_config()),
            chunk_bytes=self.chunk_bytes,
        )

    def use_plain_attention(self) -> None:
        """Have the model attend as transformers does, to generate text; the next forward of rows switches back."""
        self.causal_lm.set_attn_implementation(self.causal_lm.plain_attention)


def _takes_positions(model: PreTrainedModel) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters
