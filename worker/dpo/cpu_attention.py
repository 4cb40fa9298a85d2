"""Shared-prefix attention on a CPU, with its derivative written out.

It calls the kernels that `scaled_dot_product_attention` takes on CPUs, so its numbers are theirs; what differs is what
is kept and copied. Autograd would keep keys and values once per query head and a prompt's again for every strand that
sees it; here they are kept as the model made them and spread out again in the backward.
"""

from typing import Any

import torch
from torch import Tensor

from worker.dpo.rows import Layout, Span, Strand, is_causal, mask_of

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_AVAILABLE = all(hasattr(torch.ops.aten, name) for name in (_KERNEL, f"{_KERNEL}_backward"))
# The half-precision kernel is slower than the float32 one on sequences up to about this length.
WIDE_UP_TO = 256


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
        for strand in layout.strands:
            inputs = _inputs(query, key, value, strand)
            mask = mask_of(layout, strand, window, inputs[0])
            found, sum_ = kernel(*inputs, is_causal=mask is None, attn_mask=mask, scale=scaling)
            output[:, strand.begin : strand.end] = found[:, :, -strand.own :].transpose(1, 2)
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
        for strand, sum_ in zip(ctx.layout.strands, sums, strict=True):
            inputs = _inputs(query, key, value, strand)
            part, wide = (strand.begin, strand.end), inputs[0].dtype
            mask = mask_of(ctx.layout, strand, ctx.window, inputs[0])
            again = strand.before if is_causal(strand) else 0
            gradients = kernel(
                _padded(upstream, part, again).to(wide), *inputs, _padded(output, part, again).to(wide), sum_, 0.0, mask is None,
                attn_mask=mask, scale=ctx.scaling,
            )  # fmt: skip
            d_query[:, :, strand.begin : strand.end] = gradients[0][:, :, again:]
            for total, gradient in ((d_key, gradients[1]), (d_value, gradients[2])):
                grouped = gradient.unflatten(1, (key.shape[1], -1)).sum(2)
                total[:, :, strand.begin : strand.end] = grouped[:, :, strand.before :]
                # What it sees lies before it in the row, so it has been written to already.
                first = 0
                for begin, end in strand.seen:
                    total[:, :, begin:end] += grouped[:, :, first : first + end - begin]
                    first += end - begin
        return d_query, d_key, d_value, None, None, None


def _inputs(query: Tensor, key: Tensor, value: Tensor, strand: Strand) -> tuple[Tensor, Tensor, Tensor]:
    """The strand's queries, keys and values with a head of keys for each head of queries, as the kernels want them."""
    length = strand.before + strand.own
    dtype = torch.promote_types(query.dtype, torch.float32) if length <= WIDE_UP_TO else query.dtype
    groups = query.shape[1] // key.shape[1]
    own = (strand.begin, strand.end)

    def gathered(tensor: Tensor, spans: tuple[Span, ...]) -> Tensor:
        parts = [tensor[:, :, begin:end].to(dtype) for begin, end in spans]
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def spread(tensor: Tensor) -> Tensor:
        seen = gathered(tensor, (*strand.seen, own))
        return seen.repeat_interleave(groups, 1) if groups > 1 else seen

    return gathered(query, (*strand.seen, own) if is_causal(strand) else (own,)), spread(key), spread(value)


def _padded(tensor: Tensor, part: Span, before: int) -> Tensor:
    """The tokens of `part` after `before` zeros. tensor: (1, heads, tokens, dim)."""
    inside = tensor[:, :, part[0] : part[1]]
    return torch.nn.functional.pad(inside, (0, 0, before, 0)) if before else inside
