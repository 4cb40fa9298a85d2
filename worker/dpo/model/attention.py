"""Attention over shared rows: each token attends to itself and to those before it in its own sequence.

Registered with transformers' `AttentionInterface`, so that it serves every model that dispatches its attention
there. Transformers makes no mask for an implementation that it doesn't know, so sliding windows are applied here,
from positions. No mask over the whole row is ever made, and nothing is computed between sequences but over what they share.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from worker.dpo.model import cpu_attention, flex_attention
from worker.dpo.rows.masks import Layout, Span, is_causal, mask_of

NAME = "prefloop_shared_prefix"
# Layers that mix tokens only through their attention, which this file replaces.
SHAREABLE_LAYERS = frozenset({"full_attention", "sliding_attention", "attention"})
SHAREABLE_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})


class NotShareable(ValueError):
    """A model in which a prompt can't be computed once for both completions. The text says why."""


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    prefix_layout: Layout | flex_attention.Masks | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of one packed row. query: (1, heads, tokens, dim); key, value: (1, kv heads, tokens, dim).

    Returns (1, tokens, heads, dim). Dropout on attention weights is off in DPO, so `dropout` is ignored. Raises
    NotShareable for what it doesn't know (attention sinks, position biases, a missing layout).
    """
    if prefix_layout is None or attention_mask is not None:
        raise NotShareable("the model lost the row's layout on the way to its attention")
    unknown = [name for name, value_ in kwargs.items() if isinstance(value_, Tensor) and name not in PASSED_ALONG]
    if unknown:
        raise NotShareable(f"its attention takes {', '.join(sorted(unknown))}")
    if isinstance(prefix_layout, flex_attention.Masks):
        return flex_attention.attend_masked(query, key, value, prefix_layout, scaling, sliding_window, softcap), None
    if softcap is None and cpu_attention.serves(query):
        return cpu_attention.attend(query, key, value, prefix_layout, scaling, sliding_window), None
    if flex_attention.serves(query):
        return flex_attention.attend(query, key, value, prefix_layout, scaling, sliding_window, softcap), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    # Not slices, whose backward fills a whole row with zeros for each of them; that of split is one concatenation.
    cuts = prefix_layout.cuts
    sizes = [end - begin for begin, end in pairwise(cuts)]
    queries, keys, values = (tensor.split(sizes, dim=2) for tensor in (query, key, value))
    outputs = []
    for strand in prefix_layout.strands:
        whole = [piece for span in strand.whole for piece in _pieces(cuts, span)]
        asked = whole if is_causal(strand) else _pieces(cuts, (strand.begin, strand.end))
        mask = mask_of(prefix_layout, strand, sliding_window, query)
        joined = (_joined(queries, asked), _joined(keys, whole), _joined(values, whole))
        outputs.append(_attend(*joined, mask, scaling, softcap)[:, :, -strand.own :])
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _pieces(cuts: list[int], span: Span) -> list[int]:
    """The pieces between `cuts` that make up a span."""
    return list(range(bisect_left(cuts, span[0]), bisect_left(cuts, span[1])))


def _joined(pieces: Sequence[Tensor], wanted: list[int]) -> Tensor:
    return pieces[wanted[0]] if len(wanted) == 1 else torch.cat([pieces[index] for index in wanted], dim=2)


PASSED_ALONG = frozenset({"position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k"})
AttentionInterface.register(NAME, shared_prefix_attention)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    length = query.shape[2]
    hidden = (
        torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        if mask is None
        else mask == -torch.inf
    )
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(value.dtype) @ value


def require_shareable(model: PreTrainedModel) -> None:
    """Raise NotShareable, saying why, when the model's configuration rules out shared rows."""
    config: PretrainedConfig = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        raise NotShareable(f"{type(model).__name__} doesn't take its attention from outside")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not layers <= SHAREABLE_LAYERS:
        raise NotShareable(f"it has layers that mix tokens in order: {', '.join(sorted(layers - SHAREABLE_LAYERS))}")
    if getattr(config, "alibi", False):
        raise NotShareable("its positions are an attention bias (ALiBi)")
    if not has_fixed_positions(config):
        raise NotShareable("its rotary positions change with the length of the row")


def has_fixed_positions(config: PretrainedConfig) -> bool:
    """Whether a token's rotary position is the same however long the row is (not so for dynamic and long RoPE)."""
    return _rope_types(config) <= SHAREABLE_ROPE


def _rope_types(config: PretrainedConfig) -> set[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
    return {entry.get("rope_type", "default") for entry in (nested or [parameters])}
