"""Log-probabilities of completion tokens from hidden states, in chunks, without ever holding all logits.

A preference loss sees the logits only through one sum per sequence. Where the head is frozen, dlogp/dh of a token is
therefore computed in the forward, and the backward scales it with one number per sequence: nothing is recomputed
and no logits live on. Where the head is trained, each chunk is recomputed in the backward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worker.dpo.matmul import product


@dataclass(frozen=True)
class LogitShape:
    """What a model does to its logits after the head: z ← cap·tanh(scale·z / cap)."""

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def derivative(self, shaped: Tensor) -> Tensor | float:
        """d shaped / d raw, from the shaped logits."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1 - (shaped / self.softcap) ** 2)


def logit_shape(config: object) -> LogitShape:
    """The shape that a transformers configuration names (Gemma's softcap, Cohere's and Granite's scales)."""
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return LogitShape(scale=scale / divisor, softcap=getattr(config, "final_logit_softcapping", None))


def sequence_logps(
    hidden: Tensor,
    head: nn.Module,
    target: Tensor,
    owner: Tensor,
    *,
    sequences: int,
    shape: LogitShape,
    chunk_bytes: int,
) -> Tensor:
    """Sum of log p(token) per sequence, in nats, (sequences,) float32 (float64 for float64 hidden states).

    hidden: (tokens, width), the state before each completion token; target, owner: (tokens,) its id and sequence.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.shape[0] == 0:
        return hidden.sum().to(wide) * 0 + torch.zeros(sequences, dtype=wide, device=hidden.device)
    # A row of logits lives about three times at once: as computed, in float32 and as log-softmax.
    rows = max(1, int(chunk_bytes / (3 * _vocabulary(head) * wide.itemsize)))
    if _is_frozen_linear(head):
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        weight, bias = head.weight.to(hidden.dtype), None if head.bias is None else head.bias.to(hidden.dtype)
        tokens = _FrozenHead.apply(hidden, weight, bias, target, shape, rows)
    else:
        tokens = _trained_head(hidden, head, target, shape, rows)
    return torch.zeros(sequences, dtype=wide, device=hidden.device).index_add(0, owner, tokens)


def _is_frozen_linear(head: nn.Module) -> bool:
    # The exact class: an adapter on the head is another module, and must not be bypassed.
    return type(head) is nn.Linear and not head.weight.requires_grad and (head.bias is None or not head.bias.requires_grad)


def _vocabulary(head: nn.Module) -> int:
    if isinstance(size := getattr(head, "out_features", None), int):
        return size
    weight = head.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


class _FrozenHead(torch.autograd.Function):
    """log p(target) per token of a frozen linear head, with its derivative by the hidden state made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, shape: LogitShape, rows: int) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps = torch.empty(hidden.shape[0], dtype=wide, device=hidden.device)
        slope = torch.empty_like(hidden) if wanted else None
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            shaped = shape.apply(product(hidden[part], weight, bias).to(wide))
            scores = torch.log_softmax(shaped, dim=-1)
            logps[part] = scores.gather(1, target[part, None]).squeeze(1)
            if slope is not None:
                # −dlogp/dz = softmax(z) − onehot(target)
                gradient = scores.exp_()
                gradient.scatter_add_(1, target[part, None], torch.full_like(gradient[:, :1], -1.0))
                derivative = shape.derivative(shaped)
                if not isinstance(derivative, float) or derivative != 1.0:
                    gradient.mul_(derivative)
                # PyTorch's own product: oneDNN's would copy the whole matrix, turned, for each chunk.
                torch.neg(gradient.to(weight.dtype) @ weight, out=slope[part])
        if slope is not None:
            ctx.save_for_backward(slope)
        return logps

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * upstream[:, None].to(slope.dtype), None, None, None, None, None


def _trained_head(hidden: Tensor, head: nn.Module, target: Tensor, shape: LogitShape, rows: int) -> Tensor:
    wide = torch.promote_types(hidden.dtype, torch.float32)

    def chunk(states: Tensor, ids: Tensor) -> Tensor:
        shaped = shape.apply(head(states).to(wide))
        return torch.log_softmax(shaped, dim=-1).gather(1, ids[:, None]).squeeze(1)

    parts = zip(hidden.split(rows), target.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(chunk, states, ids, use_reentrant=False) for states, ids in parts])
    return torch.cat([chunk(states, ids) for states, ids in parts])
