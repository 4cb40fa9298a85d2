"""Log-probabilities of completion tokens from hidden states, without ever holding all logits.

We walk the vocabulary one block of columns at a time, with a running maximum and sum, as FlashAttention walks its keys
(Dao et al. 2022, Algorithm 1; Milakov & Gimelshein 2018 for the softmax). Each block of logits is used while it is in the
cache, and the head's matrix is read once.

A preference loss sees the logits only through one sum per sequence. Where the head is frozen, dlogp/dh of a token is
therefore computed in the forward, and the backward scales it with one number per sequence: nothing is recomputed
and no logits live on. Where the head is trained, each block is computed again in the backward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worker.dpo.ground.matmul import product
from worker.dpo.model import pointwise

# A GPU's fast products take rows that begin at multiples of 16 bytes; of any other length they take several times as long.
ALIGNED = 128


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
    # A logit lives about three times at once: as computed, in float32 and as its exponential; compiled, twice as computed.
    logit_bytes = 2 * hidden.element_size() if pointwise.serves(hidden) else 3 * wide.itemsize
    # The exact class: an adapter on the head is another module, and must not be bypassed.
    if type(head) is nn.Linear:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        weight, bias = head.weight.to(hidden.dtype), None if head.bias is None else head.bias.to(hidden.dtype)
        columns = max(1, int(chunk_bytes / (logit_bytes * hidden.shape[0])))
        if columns > ALIGNED:
            columns -= columns % ALIGNED
        tokens = _LinearHead.apply(hidden, weight, bias, target, shape, columns)
    else:
        rows = max(1, int(chunk_bytes / (logit_bytes * _vocabulary(head))))
        tokens = _any_head(hidden, head, target, shape, rows)
    return sums(tokens, owner, sequences)


def sums(tokens: Tensor, owner: Tensor, sequences: int) -> Tensor:
    """(sequences,) sums of the tokens' values, (tokens,), by their sequence, in one order on every run."""
    empty = torch.zeros(sequences, dtype=tokens.dtype, device=tokens.device)
    if tokens.is_cuda:
        # Sorted; index_add adds as its threads come, and no run could be repeated to the last bit.
        return empty.index_put((owner,), tokens, accumulate=True)
    return empty.index_add(0, owner, tokens)


def _vocabulary(head: nn.Module) -> int:
    if isinstance(size := getattr(head, "out_features", None), int):
        return size
    weight = head.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


class _LinearHead(torch.autograd.Function):
    """log p(target), (tokens,), of a linear head in blocks of `columns` of its vocabulary.

    hidden: (tokens, width); weight: (vocabulary, width). Keeps (tokens, width) numbers: for a frozen head
    dlogp/dh = z'ₜ·Wₜ − Σᵥ pᵥ·z'ᵥ·Wᵥ, where z' is the derivative of the logit's shape and t the target; else the states.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, shape: LogitShape, columns: int
    ) -> Tensor:
        ctx.trained = any(ctx.needs_input_grad[1:3])
        wanted = ctx.needs_input_grad[0] and not ctx.trained
        wide, count = torch.promote_types(hidden.dtype, torch.float32), (hidden.shape[0], 1)
        top = torch.full(count, -torch.inf, dtype=wide, device=hidden.device)
        total, picked = torch.zeros_like(top), torch.zeros_like(top)
        # Σ exp(z − top)·z'·W, which becomes the expectation of z'·W under the softmax.
        mean = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if wanted else None
        for block in range(0, weight.shape[0], columns):
            part = slice(block, block + columns)
            if pointwise.serves(hidden):
                raw = product(hidden, weight[part], None if bias is None else bias[part])
                state = raw, target - block, picked, top, total, shape.scale, shape.softcap
                if mean is None:
                    picked, top, total = pointwise.block_statistics(*state)
                else:
                    picked, top, total, shrink, powers = pointwise.block_powers(*state)
                    mean = mean.mul_(shrink).add_(powers @ weight[part])
                continue
            shaped = _block_logits(hidden, weight, bias, part, shape, wide)
            inside, place = _where(target, block, shaped.shape[1])
            picked = torch.where(inside, shaped.gather(1, place), picked)
            before, top = top, torch.maximum(top, shaped.amax(1, keepdim=True))
            shrink = (before - top).exp_()
            slopes = shape.derivative(shaped) if wanted else 1.0
            powers = shaped.sub_(top).exp_()
            total.mul_(shrink).add_(powers.sum(1, keepdim=True))
            if mean is not None:
                _accumulate(mean.mul_(shrink), _times(powers, slopes).to(weight.dtype), weight[part])
        # In this order: top and log total apart lose less to rounding than their sum would.
        logps = (picked - top) - total.log()
        if mean is not None:
            slope = _times(weight[target].to(wide), shape.derivative(picked)).sub_(mean.div_(total))
            ctx.save_for_backward(slope.to(hidden.dtype))
        elif ctx.trained:
            ctx.save_for_backward(hidden, weight, bias, target, top, total.log())
            ctx.shape, ctx.columns = shape, columns
        return logps.squeeze(1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.trained:
            (slope,) = ctx.saved_tensors
            return slope * upstream[:, None].to(slope.dtype), None, None, None, None, None
        hidden, weight, bias, target, top, log_total = ctx.saved_tensors
        wide = top.dtype
        d_hidden = torch.zeros(hidden.shape, dtype=wide, device=hidden.device)
        d_weight, d_bias = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
        for block in range(0, weight.shape[0], ctx.columns):
            part = slice(block, block + ctx.columns)
            gradient = _block_gradient(ctx, part, target, upstream, hidden, weight, bias, top, log_total)
            if d_bias is not None:
                d_bias[part] = gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            _accumulate(d_hidden, gradient, weight[part])
            d_weight[part] = product(gradient.t(), hidden.t())
        needs = ctx.needs_input_grad
        return d_hidden.to(hidden.dtype) if needs[0] else None, d_weight, d_bias, None, None, None


def _block_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, shape: LogitShape, wide: torch.dtype
) -> Tensor:
    """(tokens, columns) shaped logits of one block of the vocabulary."""
    return shape.apply(product(hidden, weight[part], None if bias is None else bias[part]).to(wide))


def _block_gradient(
    ctx: Any,
    part: slice,
    target: Tensor,
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    top: Tensor,
    log_total: Tensor,
) -> Tensor:
    """d Σ upstream·log p(target) / d logits of one block, (tokens, columns)."""
    if pointwise.serves(hidden):
        raw = product(hidden, weight[part], None if bias is None else bias[part])
        place = target - part.start
        return pointwise.block_gradient(raw, place, top, log_total, upstream, ctx.shape.scale, ctx.shape.softcap)
    shaped = _block_logits(hidden, weight, bias, part, ctx.shape, top.dtype)
    slopes = ctx.shape.derivative(shaped)
    # dlogp/dz = onehot(target) − softmax(z)
    gradient = shaped.sub_(top).sub_(log_total).exp_().neg_()
    inside, place = _where(target, part.start, gradient.shape[1])
    gradient.scatter_add_(1, place, inside.to(gradient.dtype))
    return _times(gradient.mul_(upstream[:, None]), slopes)


def _where(target: Tensor, block: int, width: int) -> tuple[Tensor, Tensor]:
    """((tokens, 1) whether the target lies in the block, its column there, or any where it doesn't)."""
    place = (target - block)[:, None]
    return (place >= 0) & (place < width), place.clamp(0, width - 1)


def _times(values: Tensor, factor: Tensor | float) -> Tensor:
    return values if isinstance(factor, float) and factor == 1.0 else values.mul_(factor)


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in total's type."""
    if total.dtype == left.dtype:
        # PyTorch's own product, which adds as it goes.
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _any_head(hidden: Tensor, head: nn.Module, target: Tensor, shape: LogitShape, rows: int) -> Tensor:
    """log p(target), (tokens,), of a head of any kind, in blocks of `rows` tokens that the backward computes again."""
    wide = torch.promote_types(hidden.dtype, torch.float32)

    def chunk(states: Tensor, ids: Tensor) -> Tensor:
        shaped = shape.apply(head(states).to(wide))
        return torch.log_softmax(shaped, dim=-1).gather(1, ids[:, None]).squeeze(1)

    parts = zip(hidden.split(rows), target.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(chunk, states, ids, use_reentrant=False) for states, ids in parts])
    return torch.cat([chunk(states, ids) for states, ids in parts])
