"""Rows: how pairs of token ids become the tensors of one forward.

Shared layout: one unpadded row in which what sequences (a prompt with one of its answers) have in common at their
beginning stands once: `[prompt | chosen | rejected]` for a pair alone, and for pairs whose prompts begin alike, as with
a system prompt, that beginning once for all of them. Positions are counted along each sequence, and `attention.py`
lets a token see those before it in its own sequence only. Plain layout, for models that mix tokens other than by
maskable attention: one right-padded line for each of `prompt+chosen` and `prompt+rejected`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.rows.masks import Layout, Span, Strand


@dataclass(frozen=True)
class Rows:
    """The tensors of one forward over `pairs` pairs, whose sequences are numbered chosen 0…n−1, rejected n…2n−1.

    input_ids, position_ids: (lines, length). Plain lines are padded on the right, where no real token looks, so they
    need no mask. lengths: tokens of each plain line, None in the shared layout.
    source: (completion tokens,) flat index of the hidden state that predicts each completion token. The last
    prompt token predicts the first token of both completions, so it appears twice at least.
    target: (completion tokens,) the token ids predicted. owner: (completion tokens,) the sequence of each, in order.
    read: the distinct ones of source, in order; filled by `to`, while they are still where counting waits for nothing.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...] | None
    source: Tensor
    target: Tensor
    owner: Tensor
    pairs: int
    layout: Layout | None
    read: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on a device. To a GPU they are under way when this returns, before the kernels that follow."""
        read = self.source.unique() if self.read is None else self.read
        names = ("input_ids", "position_ids", "source", "target", "owner", "read")
        tensors = (self.input_ids, self.position_ids, self.source, self.target, self.owner, read)
        moved = {name: _sent(tensor, torch.device(device)) for name, tensor in zip(names, tensors, strict=True)}
        return Rows(**moved, lengths=self.lengths, pairs=self.pairs, layout=self.layout)

    def padded(self, multiple: int, *, least: int = 1) -> "Rows":
        """A shared row, lengthened to a multiple of so many tokens, `least` times as many at least, by a sequence that
        nothing reads."""
        missing = max(-self.tokens % multiple, least * multiple - self.tokens)
        if not missing or self.layout is None:
            return self
        more = self.input_ids.new_zeros(1, missing)
        padding = Strand((), self.tokens, self.tokens + missing)
        return replace(
            self,
            input_ids=torch.cat((self.input_ids, more), 1),
            position_ids=torch.cat((self.position_ids, torch.arange(missing)[None]), 1),
            layout=Layout((*self.layout.strands, padding)),
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def shared_length(pair: TokenPair) -> int:
    """Tokens of one pair alone in the shared layout."""
    alike = common_length(pair.chosen_ids, pair.rejected_ids)
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) - alike


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two tuples of ids have in common at their beginning."""
    low, high = 0, min(len(left), len(right))
    # We halve the range, since comparing slices is much faster than comparing tokens one by one.
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_rows(pairs: Sequence[TokenPair]) -> Rows:
    """All sequences of `pairs` in one unpadded row, each beginning that several have in common once."""
    for pair in pairs:
        _require_prompt(pair)
    prompts = [pair.prompt_ids for pair in pairs] * 2
    sequences = [pair.prompt_ids + pair.chosen_ids for pair in pairs] + [
        pair.prompt_ids + pair.rejected_ids for pair in pairs
    ]
    ids: list[int] = []
    positions: list[int] = []
    strands: list[Strand] = []
    # Places in the row of each sequence's tokens. In sorted order, a sequence has most in common with the one just
    # before it.
    places: list[list[int]] = [[] for _ in sequences]
    previous: tuple[int, ...] = ()
    where: list[int] = []
    for number in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[number]
        common, begin = common_length(previous, sequence), len(ids)
        end = begin + len(sequence) - common
        if begin < end:
            strands.append(Strand(_spans(where[:common]), begin, end))
        ids += sequence[common:]
        positions += range(common, len(sequence))
        previous, where = sequence, [*where[:common], *range(begin, end)]
        places[number] = where
    source: list[int] = []
    target: list[int] = []
    owner: list[int] = []
    for number, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True)):
        source += places[number][len(prompt) - 1 : len(sequence) - 1]
        target += sequence[len(prompt) :]
        owner += [number] * (len(sequence) - len(prompt))
    return Rows(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        lengths=None,
        source=torch.tensor(source, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        owner=torch.tensor(owner, dtype=torch.long),
        pairs=len(pairs),
        layout=Layout(tuple(strands)),
    )


def _spans(places: Sequence[int]) -> tuple[Span, ...]:
    """The runs of neighbouring places, as [begin, end)."""
    spans: list[Span] = []
    for place in places:
        if spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
    return tuple(spans)


def plain_rows(pairs: Sequence[TokenPair], *, pad_id: int) -> Rows:
    """One right-padded line for each completion with its prompt. The pad id is never a target, whatever it is."""
    for pair in pairs:
        _require_prompt(pair)
    lines = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs] + [
        (pair.prompt_ids, pair.rejected_ids) for pair in pairs
    ]
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
