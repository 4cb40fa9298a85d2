"""Which tokens of a shared row see which: its strands, their layout, and the masks that kernels take.

A strand is a stretch of the row that continues one sequence; its tokens see those before them in that sequence only.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True)
class Strand:
    """Tokens [begin, end) of a shared row, which continue a sequence.

    seen: spans [begin, end) of the row, in order, that hold the sequence's earlier tokens; all lie before `begin`.
    """

    seen: tuple[Span, ...]
    begin: int
    end: int

    @property
    def own(self) -> int:
        """Tokens of the strand itself."""
        return self.end - self.begin

    @property
    def whole(self) -> tuple[Span, ...]:
        """Spans of the row that hold the sequence up to the strand's end."""
        return *self.seen, (self.begin, self.end)

    @property
    def before(self) -> int:
        """Tokens of the sequence that come before the strand."""
        return sum(end - begin for begin, end in self.seen)


@dataclass(frozen=True)
class Layout:
    """The strands of a shared row, in its order and covering it, and their masks, made once for all layers."""

    strands: tuple[Strand, ...]
    masks: dict = field(default_factory=dict, compare=False)

    @cached_property
    def cuts(self) -> list[int]:
        """All places at which a span begins or ends, in order."""
        return sorted({place for strand in self.strands for span in strand.whole for place in span})


def is_causal(strand: Strand) -> bool:
    """Whether to attend with a whole causal sequence, the queries of `seen` again, instead of a mask: where that is less work."""
    return strand.before <= strand.own


def mask_of(layout: Layout, strand: Strand, window: int | None, like: Tensor) -> Tensor | None:
    """(queries, keys) additive mask of a strand within `window` tokens; None where a kernel's causal order says it all.

    Keys are all tokens of the sequence up to the strand's end; queries the same where `is_causal`, else the strand's own.
    """
    keys = strand.before + strand.own
    if is_causal(strand) and (window is None or keys <= window):
        return None
    return causal_mask(layout, keys if is_causal(strand) else strand.own, keys, window, like)


def causal_mask(layout: Layout, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
    """(queries, keys) additive mask of the last `queries` of `keys` tokens of a sequence, within `window` tokens."""
    identity = (queries, keys, window, like.dtype, like.device)
    if identity not in layout.masks:
        query_position = torch.arange(keys - queries, keys, device=like.device)[:, None]
        key_position = torch.arange(keys, device=like.device)[None, :]
        seen = key_position <= query_position
        if window is not None:
            seen &= query_position - key_position < window
        layout.masks[identity] = torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, -torch.inf)
    return layout.masks[identity]
