"""The attention of the decoding loop, registered with transformers' `AttentionInterface`: prompts in a row, then one token a line."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from worker.dpo.decoding.cache import Block
from worker.dpo.model.attention import PASSED_ALONG, NotShareable, shared_prefix_attention
from worker.dpo.rows.masks import Layout

NAME = "prefloop_decoding"


@dataclass
class Prompts:
    """A row of whole prompts, one after the other. keys, values: what each layer made of them, (kv heads, tokens, dim)."""

    layout: Layout
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


@dataclass
class Step:
    """One token of each line, the lines in any order. layer: the next one to come; the layers are called in order."""

    blocks: list[Block]
    layer: int = 0
    _slots: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def slots(self, block: Block, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """For a block: the row of each slot (any row for an empty one), the slots that have lines, and their rows."""
        if id(block) not in self._slots:
            filled = [slot for slot, row in enumerate(block.rows) if row >= 0]
            rows = [max(row, 0) for row in block.rows]
            lists = (rows, filled, [rows[slot] for slot in filled])
            self._slots[id(block)] = tuple(torch.tensor(each, device=device) for each in lists)  # type: ignore[assignment]
        return self._slots[id(block)]


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    decoding: Prompts | Step | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """query: (1, heads, rows, dim); key, value: (1, kv heads, rows, dim). Returns (1, rows, heads, dim).

    Raises NotShareable for what it doesn't know (attention sinks, position biases, a step that was lost on the way).
    """
    if decoding is None or attention_mask is not None:
        raise NotShareable("the model lost the lines on the way to its attention")
    unknown = [name for name, given in kwargs.items() if isinstance(given, Tensor) and name not in PASSED_ALONG]
    if unknown:
        raise NotShareable(f"its attention takes {', '.join(sorted(unknown))}")
    if isinstance(decoding, Prompts):
        decoding.keys.append(key[0])
        decoding.values.append(value[0])
        row = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        return shared_prefix_attention(module, query, key, value, None, prefix_layout=decoding.layout, **row)  # type: ignore[arg-type]
    number, decoding.layer = decoding.layer, decoding.layer + 1
    scaled = query[0].transpose(0, 1) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    key, value = key[0].transpose(0, 1), value[0].transpose(0, 1)
    output = value.new_zeros(*scaled.shape[:-1], value.shape[-1])
    for block in decoding.blocks:
        rows, filled, owners = decoding.slots(block, query.device)
        newest = [_by_head(tensor.index_select(0, rows), block, key.shape[1]) for tensor in (scaled, key, value)]
        mixed = _attend(block, number, newest, sliding_window, softcap)
        output.index_copy_(0, owners, mixed.index_select(0, filled))
    return output[None], None


AttentionInterface.register(NAME, decoding_attention)


def _by_head(tensor: Tensor, block: Block, heads: int) -> Tensor:
    """(prompts · kv heads, answers · heads a kv head, dim) of (slots, heads, dim)."""
    each = tensor.view(len(block.lengths), block.answers, heads, -1, tensor.shape[-1])
    return each.transpose(1, 2).contiguous().view(len(block.lengths) * heads, -1, tensor.shape[-1])


def _attend(block: Block, number: int, newest: Sequence[Tensor], window: int | None, softcap: float | None) -> Tensor:
    """(slots, heads, dim). newest: query, key and value of a block's newest tokens, as `_by_head` orders them."""
    query, key, value = newest
    prompts, answers = len(block.lengths), block.answers
    layer = block.layers[number]
    keys, values = layer.append(key.flatten(0, 1), value.flatten(0, 1), block.tokens)
    if window is not None and block.tokens >= window:
        keys, values = keys[:, -window:], values[:, -window:]
    ahead = layer.prompt_keys.shape[1]
    each = query.view(keys.shape[0], -1, query.shape[-1])
    own = torch.bmm(each, keys.transpose(1, 2)).view(*query.shape[:2], -1)
    scores = torch.cat([torch.bmm(query, layer.prompt_keys.transpose(1, 2)), own], -1)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    mask = block.mask(window, scores)
    if mask is not None:
        scores.view(prompts, -1, scores.shape[-1])[..., :ahead].add_(mask)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
    mixed = torch.bmm(weights[..., :ahead], layer.prompt_values)
    mixed.view(keys.shape[0], -1, mixed.shape[-1]).baddbmm_(weights.view(*each.shape[:2], -1)[..., ahead:], values)
    heads = keys.shape[0] // (prompts * answers)
    return (
        mixed.view(prompts, heads, answers, -1, mixed.shape[-1])
        .transpose(1, 2)
        .reshape(prompts * answers, -1, mixed.shape[-1])
    )
