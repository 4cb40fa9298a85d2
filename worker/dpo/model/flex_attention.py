"""Attention over shared rows on a GPU: FlexAttention, one kernel over the whole row and one compile for rows of any length.

Rows are laid out as a tree walked depth first: a sequence's tokens follow the beginning that it shares with the one before it.
So what a token's descendants are is one number a token: the place at which they end. A query sees a key exactly where
key ≤ query < end of the key's descendants, and the mask of a row is this one row of numbers. What FlexAttention wants
to know a block of it at a time (which blocks of keys a block of queries sees whole, in part or not at all) is found
from the blocks' smallest and largest numbers, on the host, and goes to the device in a single copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from worker.dpo.rows.masks import Layout

# Queries and keys of a block: what FlexAttention's kernels take on every card.
BLOCK = 128
# The types that its kernels compute in. float64 has none.
_TYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_kernel: Callable[..., Any] | None = None
_refusal: str | None = None


def serves(query: Tensor) -> bool:
    """Whether these kernels can be used for this query on this machine."""
    return query.is_cuda and query.dtype in _TYPES and _refusal is None


def refuse(reason: str) -> None:
    """Don't use these kernels any more in this process; empty: use them again."""
    global _refusal
    _refusal = reason or None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention of a packed row, (1, tokens, heads, dim). query: (1, heads, tokens, dim); key, value: (1, kv heads, tokens, dim)."""
    return _attend(_compiled(), query, key, value, block_mask(layout, window, query.device), scaling, softcap)


@dataclass(frozen=True)
class Masks:
    """A row's masks, made before its layers run: of layers without a window, and of those with this `window`, in tokens.

    What compiled layers get in place of the row's layout, whose numbers would each be taken for a constant. apart: the
    kernel isn't compiled with the layer, but for itself.
    """

    whole: BlockMask
    window: int | None
    near: BlockMask | None
    apart: bool


def masks(layout: Layout, window: int | None, device: torch.device, *, apart: bool) -> Masks:
    """The masks of a row, for layers without a window and with this one."""
    near = None if window is None else block_mask(layout, window, device)
    return Masks(block_mask(layout, None, device), window, near, apart)


def attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: Masks,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`attend` inside a compiled layer."""
    mask = row.whole if window is None else row.near
    if mask is None or window != (None if window is None else row.window):
        raise ValueError(f"the row has no mask for a window of {window} tokens")
    if row.apart:
        return _attend_apart(query, key, value, mask, scaling, softcap)
    return _attend(flex_attention, query, key, value, mask, scaling, softcap)


@torch.compiler.disable
def _attend_apart(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None, softcap: float | None
) -> Tensor:
    return _attend(_compiled(), query, key, value, mask, scaling, softcap)


def _attend(
    kernel: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and torch.is_grad_enabled():
        # Gradients of keys and values are computed by one program for each block of keys and head: with few heads of their
        # own most of a GPU would have nothing to do.
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output: Tensor = kernel(
        query,
        key.to(query.dtype),
        value.to(query.dtype),
        score_mod=None if softcap is None else _softcapping(softcap),
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous()


def _compiled() -> Callable[..., Any]:
    global _kernel
    if _kernel is None:
        # Rows have as many lengths as there are batches: one kernel for all of them, not one for each.
        _kernel = torch.compile(flex_attention, dynamic=True)
    return _kernel


def _softcapping(softcap: float) -> _ScoreMod:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """The mask of a row within `window` tokens, made once for all layers."""
    identity = ("flex", window, device)
    if identity not in layout.masks:
        layout.masks[identity] = _block_mask(layout, window, device)
    return layout.masks[identity]


def _block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    ends, depths = descendants_end(layout), sequence_places(layout)
    partial, full = block_tables(ends, depths, window)
    tables = [*_ordered(partial), *_ordered(full), *_ordered(partial.T), *_ordered(full.T)]
    parts = [ends, depths, *tables]
    # The kernels read some tables in wide loads: each begins at a multiple of 16 bytes.
    sizes = [-(-part.size // 4) * 4 for part in parts]
    packed = np.zeros(sum(sizes), np.int32)
    starts = np.cumsum([0, *sizes[:-1]])
    for start, part in zip(starts, parts, strict=True):
        packed[start : start + part.size] = part.ravel()
    host = torch.from_numpy(packed)
    there = host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
    ends_there, depths_there, *moved = (
        there[start : start + part.size].view(part.shape if part.ndim == 1 else (1, 1, *part.shape))
        for start, part in zip(starts.tolist(), parts, strict=True)
    )
    counts = [table.view(1, 1, -1) if table.ndim == 1 else table for table in moved]
    some_count, some_blocks, whole_count, whole_blocks = counts[:4]
    mask = BlockMask.from_kv_blocks(
        some_count,
        some_blocks,
        whole_count,
        whole_blocks,
        BLOCK_SIZE=BLOCK,
        mask_mod=_seen(ends_there, depths_there, window),
        seq_lengths=(len(ends), len(ends)),
        compute_q_blocks=False,
    )
    mask.q_num_blocks, mask.q_indices, mask.full_q_num_blocks, mask.full_q_indices = counts[4:]
    return mask


def _seen(ends: Tensor, depths: Tensor, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def on_the_way(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    if window is None:
        return on_the_way

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return on_the_way(batch, head, query, key) & (depths[query] - depths[key] < window)

    return near


def descendants_end(layout: Layout) -> np.ndarray:
    """(tokens,) int32: the place in the row at which what continues each token ends."""
    ends = np.zeros(layout.strands[-1].end, np.int32)
    for strand in layout.strands:
        # Later strands end later.
        for begin, end in strand.whole:
            ends[begin:end] = strand.end
    return ends


def sequence_places(layout: Layout) -> np.ndarray:
    """(tokens,) int32: how many tokens of its sequence come before each token."""
    return np.concatenate(
        [np.arange(strand.before, strand.before + strand.own, dtype=np.int32) for strand in layout.strands]
    )


def block_tables(ends: np.ndarray, depths: np.ndarray, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Two (query blocks, key blocks) tables of 0 and 1: seen in part, and seen whole.

    A block that is seen in part may turn out not to be seen: its mask is looked at all the same. None of the others may.
    """
    first = np.arange(0, len(ends), BLOCK)
    # Padding of the last block: no query is there, so it mustn't keep a block from being whole, or make it one.
    last = np.minimum(first + BLOCK, len(ends))[:, None]
    far, near = np.maximum.reduceat(ends, first)[None], np.minimum.reduceat(ends, first)[None]
    before = first[:, None] > first[None]
    some, every = before & (far > first[:, None]), before & (near >= last)
    if window is not None:
        low, high = np.minimum.reduceat(depths, first), np.maximum.reduceat(depths, first)
        some &= low[:, None] - high[None] < window
        every &= high[:, None] - low[None] < window
    if len(ends) % BLOCK:
        # The kernels take a whole block to hold BLOCK keys and queries.
        every[-1] = False
    partial = (some & ~every) | np.eye(len(first), dtype=bool)
    return partial.astype(np.int32), every.astype(np.int32)


def _ordered(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((rows,) how many ones a row has, (rows, columns) the columns with those first), int32."""
    return table.sum(1, dtype=np.int32), np.argsort(-table, axis=1, kind="stable").astype(np.int32)
