"""Attention over shared rows on a CPU, with its derivative written out.

Strands of long sequences go through the kernels that `scaled_dot_product_attention` takes on CPUs, short ones through plain
products, which are faster there: they need nothing computed that is thrown away, and no copy of keys for each query
head. Either way keys and values are kept as the model made them, not once per query head or per strand that sees them.
"""

from typing import Any

import torch
from torch import Tensor

from worker.dpo.rows.masks import Layout, Span, Strand, causal_mask, is_causal, mask_of

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_AVAILABLE = all(hasattr(torch.ops.aten, name) for name in (_KERNEL, f"{_KERNEL}_backward"))
# The longest sequence, in tokens, for plain products. On HH pairs they take a sixth less time than the kernel; from about
# this length on they aren't faster, and at thousands of tokens they are much slower (`bench/attention_speed.py`).
SHORT = 384
# Queries in one plain product. Keys that only later queries see are left out of it.
BLOCK = 64


def serves(query: Tensor) -> bool:
    """Whether this machine and this PyTorch have the kernels."""
    return query.device.type == "cpu" and _AVAILABLE


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None
) -> Tensor:
    """Attention of a packed row, (1, tokens, heads, dim). query: (1, heads, tokens, dim); key, value: (1, kv heads, tokens, dim)."""
    output: Tensor = _Attention.apply(query, key.to(query.dtype), value.to(query.dtype), layout, scaling, window)
    return output


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None
    ) -> Tensor:
        output = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        kernel, sums = getattr(torch.ops.aten, _KERNEL), []
        products = _Products(query, key, value, layout, scaling, window)
        for strand in layout.strands:
            own = slice(strand.begin, strand.end)
            if _is_short(strand):
                products.attend(strand, output[0, own].transpose(0, 1))
                continue
            inputs = _inputs(query, key, value, strand)
            mask = mask_of(layout, strand, window, inputs[0])
            attended, sum_ = kernel(*inputs, is_causal=mask is None, attn_mask=mask, scale=scaling)
            output[:, own] = attended[:, :, -strand.own :].transpose(1, 2)
            sums.append(sum_)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.layout, ctx.scaling, ctx.window = layout, scaling, window
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *sums = ctx.saved_tensors
        output, upstream = output.transpose(1, 2), upstream.transpose(1, 2)
        d_query = torch.empty_like(query)
        # Several strands add to what they see.
        d_key, d_value = (
            torch.empty_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in (key, value)
        )
        products = _Products(query, key, value, ctx.layout, ctx.scaling, ctx.window)
        for strand in ctx.layout.strands:
            own = slice(strand.begin, strand.end)
            if _is_short(strand):
                gradients = products.gradients(strand, upstream[0, :, own])
            else:
                gradients = _kernel_gradients(ctx, strand, query, key, value, output, upstream, sums.pop(0))
            d_query[0, :, own] = gradients[0]
            for total, gradient in ((d_key[0], gradients[1]), (d_value[0], gradients[2])):
                total[:, own] = gradient[:, strand.before :]
                # What the strand sees lies before it in the row, so it has been written already.
                first = 0
                for begin, end in strand.seen:
                    total[:, begin:end].add_(gradient[:, first : first + end - begin])
                    first += end - begin
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _is_short(strand: Strand) -> bool:
    return strand.before + strand.own <= SHORT


class _Products:
    """Attention of short strands by plain products, in float32 at least. Query heads that share a head of keys are rows of one product."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None
    ) -> None:
        """query: (1, heads, tokens, dim); key, value: (1, kv heads, tokens, dim)."""
        self.layout, self.window = layout, window
        if not any(map(_is_short, layout.strands)):
            return
        wide = torch.promote_types(query.dtype, torch.float32)
        self.scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        self.query = query[0].to(wide) * self.scaling
        self.key, self.value = key[0].to(wide), value[0].to(wide)

    def attend(self, strand: Strand, output: Tensor) -> None:
        """Write what the strand's queries get to `output`, (heads, queries, dim)."""
        key, value = self._sequence(strand)
        for block, seen in _blocks(strand):
            weights = self._weights(self._grouped(self.query, strand, block), key[:, :seen], block)
            output[:, block] = torch.bmm(weights, value[:, :seen]).view(len(output), -1, output.shape[-1])

    def gradients(self, strand: Strand, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives by the strand's queries, (heads, queries, dim), and its sequence's keys and values, (kv heads, tokens, dim).

        upstream: (heads, queries, dim), by what `attend` wrote.
        """
        key, value = self._sequence(strand)
        upstream = upstream.to(key.dtype)
        d_query = torch.empty_like(upstream)
        d_key = d_value = None
        # The last block first: it sees all keys, and the others add to what it gave.
        for block, seen in reversed(_blocks(strand)):
            query, above = (
                self._grouped(self.query, strand, block),
                upstream[:, block].reshape(len(key), -1, key.shape[-1]),
            )
            weights = self._weights(query, key[:, :seen], block)
            d_weights = torch.bmm(above, value[:, :seen].transpose(1, 2))
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, d_weights.dtype)
            d_query[:, block] = (
                torch.bmm(d_scores, key[:, :seen]).mul_(self.scaling).view(len(d_query), -1, d_query.shape[-1])
            )
            if d_key is None or d_value is None:
                d_key, d_value = torch.bmm(d_scores.transpose(1, 2), query), torch.bmm(weights.transpose(1, 2), above)
            else:
                d_key[:, :seen].baddbmm_(d_scores.transpose(1, 2), query)
                d_value[:, :seen].baddbmm_(weights.transpose(1, 2), above)
        assert d_key is not None and d_value is not None
        return d_query, d_key, d_value

    def _sequence(self, strand: Strand) -> tuple[Tensor, Tensor]:
        return _gathered(self.key, strand.whole), _gathered(self.value, strand.whole)

    def _grouped(self, tensor: Tensor, strand: Strand, block: slice) -> Tensor:
        """(kv heads, heads a kv head · queries, dim) of a block's queries."""
        inside = tensor[:, strand.begin + block.start : strand.begin + block.stop]
        return inside.reshape(len(self.key), -1, tensor.shape[-1])

    def _weights(self, query: Tensor, key: Tensor, block: slice) -> Tensor:
        """Softmax of the block's queries, grouped and scaled, over its sequence's keys, of which theirs are the last."""
        scores = torch.bmm(query, key.transpose(1, 2))
        queries, keys = block.stop - block.start, key.shape[1]
        # Without a window only the queries' own keys are partly hidden.
        hiding = queries if self.window is None else keys
        mask = causal_mask(self.layout, queries, hiding, self.window, scores)
        scores.view(len(scores), -1, queries, keys)[..., keys - hiding :].add_(mask)
        return torch.softmax(scores, -1)


def _blocks(strand: Strand) -> list[tuple[slice, int]]:
    """The strand's queries, about BLOCK in each, and how many of the sequence's tokens the last of them sees."""
    size = -(-strand.own // max(1, round(strand.own / BLOCK)))
    ends = [min(strand.own, begin + size) for begin in range(0, strand.own, size)]
    return [
        (slice(begin, end), strand.before + end) for begin, end in zip(range(0, strand.own, size), ends, strict=True)
    ]


def _kernel_gradients(
    ctx: Any, strand: Strand, query: Tensor, key: Tensor, value: Tensor, output: Tensor, upstream: Tensor, sum_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `_Products.gradients` gives, of a strand that went through the kernel. output, upstream: (1, heads, tokens, dim)."""
    inputs = _inputs(query, key, value, strand)
    mask = mask_of(ctx.layout, strand, ctx.window, inputs[0])
    again = strand.before if is_causal(strand) else 0
    # Queries of `seen` were only computed again, so no gradient comes to them from above.
    above, gradients = (
        torch.nn.functional.pad(tensor[:, :, strand.begin : strand.end], (0, 0, again, 0))
        for tensor in (upstream, output)
    )
    kernel = getattr(torch.ops.aten, f"{_KERNEL}_backward")
    d_query, *others = kernel(above, *inputs, gradients, sum_, 0.0, mask is None, attn_mask=mask, scale=ctx.scaling)
    d_key, d_value = (gradient[0].unflatten(0, (key.shape[1], -1)).sum(1) for gradient in others)
    return d_query[0, :, again:], d_key, d_value


def _inputs(query: Tensor, key: Tensor, value: Tensor, strand: Strand) -> tuple[Tensor, Tensor, Tensor]:
    """The strand's queries, keys and values with a head of keys for each head of queries, as the kernels want them."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (_gathered(tensor[0], strand.whole)[None] for tensor in (key, value))
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    return _gathered(query[0], strand.whole if is_causal(strand) else ((strand.begin, strand.end),))[None], keys, values


def _gathered(tensor: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """The tokens in `spans`, one after the other. tensor: (heads, tokens, dim)."""
    parts = [tensor[:, begin:end] for begin, end in spans]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
