"""Shared-prefix attention on a CPU, with its derivative written out.

It calls the kernels that `scaled_dot_product_attention` takes on CPUs, so its numbers are theirs; what differs is what
is kept and copied. Autograd would keep keys and values once per query head and the prompt's a second time for the
rejected answer; here they are kept as the model made them and spread out again in the backward.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.dpo.rows import Layout, causal_mask

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_AVAILABLE = all(hasattr(torch.ops.aten, name) for name in (_KERNEL, f"{_KERNEL}_backward"))
# The half-precision kernel is slower than the float32 one on sequences up to about this length.
WIDE_UP_TO = 256


class _Half(NamedTuple):
    """One sequence of a row: queries at [begin, end), keys at the prompt's [start, start + prompt) and at the queries'."""

    start: int
    prompt: int
    begin: int
    end: int


def serves(query: Tensor) -> bool:
    """Whether this machine and this PyTorch have the kernels."""
    return query.device.type == "cpu" and _AVAILABLE


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
    """Attention of a packed row, (1, tokens, heads, dim). query: (1, heads, tokens, dim); key, value: (1, kv heads, tokens, dim)."""
    found: Tensor = _Attention.apply(query, key.to(query.dtype), value.to(query.dtype), layout, scaling, window)
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
        output = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        kernel, sums = getattr(torch.ops.aten, _KERNEL), []
        for half in _halves(layout):
            inputs = _inputs(query, key, value, half)
            found, sum_ = kernel(*inputs, is_causal=half.prompt == 0, attn_mask=_mask(layout, half, window, inputs[0]), scale=scaling)
            output[:, half.begin : half.end] = found.transpose(1, 2)
            sums.append(sum_)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.layout, ctx.scaling, ctx.window = layout, scaling, window
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *sums = ctx.saved_tensors
        output, upstream = output.transpose(1, 2), upstream.transpose(1, 2)
        kernel = getattr(torch.ops.aten, f"{_KERNEL}_backward")
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for half, sum_ in zip(_halves(ctx.layout), sums, strict=True):
            inputs = _inputs(query, key, value, half)
            wide = inputs[0].dtype
            part = slice(half.begin, half.end)
            gradients = kernel(
                upstream[:, :, part].to(wide),
                *inputs,
                output[:, :, part].to(wide),
                sum_,
                0.0,
                half.prompt == 0,
                attn_mask=_mask(ctx.layout, half, ctx.window, inputs[0]),
                scale=ctx.scaling,
            )
            d_query[:, :, part] = gradients[0]
            for total, gradient in ((d_key, gradients[1]), (d_value, gradients[2])):
                grouped = gradient.unflatten(1, (key.shape[1], -1))
                total[:, :, part] = grouped[:, :, :, half.prompt :].sum(2)
                if half.prompt:
                    # Its own half was here before: a prompt's keys are seen by both.
                    total[:, :, half.start : half.start + half.prompt] += grouped[:, :, :, : half.prompt].sum(2)
        return d_query, d_key, d_value, None, None, None


@lru_cache(maxsize=16)
def _halves(layout: Layout) -> list[_Half]:
    """Prompt and chosen as one causal sequence, then rejected over the prompt and itself, of every pair."""
    found, start = [], 0
    for part in layout.segments:
        middle = start + part.prompt + part.chosen
        found.append(_Half(start, 0, start, middle))
        if part.rejected:
            found.append(_Half(start, part.prompt, middle, middle + part.rejected))
        start = middle + part.rejected
    return found


def _inputs(query: Tensor, key: Tensor, value: Tensor, half: _Half) -> tuple[Tensor, Tensor, Tensor]:
    """The half's queries, keys and values with a head of keys for each head of queries, as the kernels want them."""
    length = half.prompt + half.end - half.begin
    dtype = torch.promote_types(query.dtype, torch.float32) if length <= WIDE_UP_TO else query.dtype
    groups = query.shape[1] // key.shape[1]

    def spread(tensor: Tensor) -> Tensor:
        seen = tensor[:, :, half.begin : half.end].to(dtype)
        if half.prompt:
            seen = torch.cat([tensor[:, :, half.start : half.start + half.prompt].to(dtype), seen], 2)
        return seen.repeat_interleave(groups, 1) if groups > 1 else seen

    return query[:, :, half.begin : half.end].to(dtype), spread(key), spread(value)


def _mask(layout: Layout, half: _Half, window: int | None, like: Tensor) -> Tensor | None:
    """None where the kernel's own causal order says it all."""
    queries = half.end - half.begin
    if half.prompt == 0 and (window is None or queries <= window):
        return None
    return causal_mask(layout, queries, half.prompt + queries, window, like)
