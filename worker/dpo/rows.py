"""Rows: how pairs of token ids become the tensors of one forward.

Shared layout, one row `[prompt | chosen | rejected | prompt | chosen | rejected | …]` without any padding. Both
completions take their positions from the prompt's end, and `attention.py` keeps the rejected tokens from seeing
the chosen ones, so the prompt is computed once. Plain layout, for models that mix tokens other than by maskable
attention: one right-padded line for each of `prompt+chosen` and `prompt+rejected`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.dpo.pairs import TokenPair


@dataclass(frozen=True)
class Segment:
    """Lengths in tokens of one pair inside a shared row."""

    prompt: int
    chosen: int
    rejected: int


@dataclass(frozen=True)
class Layout:
    """Where the pairs of a shared row lie, and the masks of its rejected halves, made once for all layers."""

    segments: tuple[Segment, ...]
    masks: dict = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Rows:
    """The tensors of one forward over `pairs` pairs, whose sequences are numbered chosen 0…n−1, rejected n…2n−1.

    input_ids, position_ids: (lines, length). Plain lines are padded on the right, where no real token looks, so they
    need no mask. lengths: tokens of each plain line, None in the shared layout.
    source: (completion tokens,) flat index of the hidden state that predicts each completion token. The last
    prompt token predicts the first token of both completions, so it appears twice.
    target: (completion tokens,) the token ids predicted. owner: (completion tokens,) the sequence of each.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...] | None
    source: Tensor
    target: Tensor
    owner: Tensor
    pairs: int
    layout: Layout | None

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device | str) -> "Rows":
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "position_ids", "source", "target", "owner")}
        return Rows(**moved, lengths=self.lengths, pairs=self.pairs, layout=self.layout)


def shared_length(pair: TokenPair) -> int:
    """Tokens of one pair in the shared layout."""
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def plain_length(pair: TokenPair) -> int:
    """Tokens of the longer half of one pair: the width that its plain lines need."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def shared_rows(pairs: Sequence[TokenPair]) -> Rows:
    """All pairs in one unpadded row, the prompt of each once."""
    ids: list[int] = []
    positions: list[int] = []
    source: list[int] = []
    target: list[int] = []
    owner: list[int] = []
    segments = []
    for number, pair in enumerate(pairs):
        _require_prompt(pair)
        start, length = len(ids), len(pair.prompt_ids)
        ids += pair.prompt_ids
        positions += range(length)
        for completion, sequence in ((pair.chosen_ids, number), (pair.rejected_ids, len(pairs) + number)):
            if completion:
                source += [start + length - 1, *range(len(ids), len(ids) + len(completion) - 1)]
            target += completion
            owner += [sequence] * len(completion)
            ids += completion
            positions += range(length, length + len(completion))
        segments.append(Segment(length, len(pair.chosen_ids), len(pair.rejected_ids)))
    return Rows(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        lengths=None,
        source=torch.tensor(source, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        owner=torch.tensor(owner, dtype=torch.long),
        pairs=len(pairs),
        layout=Layout(tuple(segments)),
    )


def plain_rows(pairs: Sequence[TokenPair], *, pad_id: int) -> Rows:
    """One right-padded line for each completion with its prompt. The pad id is never a target, whatever it is."""
    for pair in pairs:
        _require_prompt(pair)
    lines = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs] + [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    width = max(len(prompt) + len(completion) for prompt, completion in lines)
    input_ids = torch.full((len(lines), width), pad_id, dtype=torch.long)
    source: list[int] = []
    target: list[int] = []
    owner: list[int] = []
    for number, (prompt, completion) in enumerate(lines):
        length = len(prompt) + len(completion)
        input_ids[number, :length] = torch.tensor([*prompt, *completion])
        first = number * width + len(prompt) - 1
        source += range(first, first + len(completion))
        target += completion
        owner += [number] * len(completion)
    return Rows(
        input_ids=input_ids,
        position_ids=torch.arange(width).repeat(len(lines), 1),
        lengths=tuple(len(prompt) + len(completion) for prompt, completion in lines),
        source=torch.tensor(source, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        owner=torch.tensor(owner, dtype=torch.long),
        pairs=len(pairs),
        layout=None,
    )


def _require_prompt(pair: TokenPair) -> None:
    if not pair.prompt_ids:
        raise ValueError(f"Line {pair.line} has no prompt token, so nothing predicts the first token of its answers.")


def causal_mask(layout: Layout, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
    """(queries, keys) additive mask of the last `queries` of `keys` tokens in order, within `window` tokens."""
    identity = (queries, keys, window, like.dtype, like.device)
    if identity not in layout.masks:
        query_position = torch.arange(keys - queries, keys, device=like.device)[:, None]
        key_position = torch.arange(keys, device=like.device)[None, :]
        seen = key_position <= query_position
        if window is not None:
            seen &= query_position - key_position < window
        layout.masks[identity] = torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, -torch.inf)
    return layout.masks[identity]
