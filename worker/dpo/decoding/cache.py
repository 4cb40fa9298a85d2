"""Keys and values of lines that are answered together: a prompt's once for all its answers, and each answer's own.

A block holds the lines that began in the same step, so all their answers are equally long and none is padded. Its prompts are of like
length. Slots of lines that have ended stay empty until their prompt's last line has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Tokens of an answer for which a block has room at first; it doubles when they are used up.
ROOM = 32


@dataclass(slots=True)
class Layer:
    """One layer's keys and values of a block, with room for more answer tokens than there are.

    prompt_keys, prompt_values: (prompts · kv heads, prompt tokens, dim). keys, values: (prompts · kv heads · answers, tokens, dim).
    """

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor

    def append(self, key: Tensor, value: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Put the newest token's key and value at `place`; returns all keys and values up to it. key: (slots of a head, dim)."""
        if place == self.keys.shape[1]:
            self.keys, self.values = (torch.cat([old, torch.empty_like(old)], 1) for old in (self.keys, self.values))
        self.keys[:, place] = key
        self.values[:, place] = value
        return self.keys[:, : place + 1], self.values[:, : place + 1]


@dataclass
class Block:
    """Lines that began together. lengths: tokens of each prompt. answers: slots for each prompt.

    rows: for each slot, in order of prompts, the row of the batch that is its line; -1 where none is. tokens: how many of
    each answer have their keys and values here.
    """

    lengths: list[int]
    answers: int
    rows: list[int]
    tokens: int = 0
    layers: list[Layer] = field(default_factory=list)
    _masks: dict = field(default_factory=dict)

    def add_layer(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """keys, values: one layer's of each prompt, (kv heads, its tokens, dim)."""
        heads = keys[0].shape[0]
        slots = len(keys) * heads * self.answers
        own = [part[0].new_empty(slots, ROOM, part[0].shape[-1]) for part in (keys, values)]
        self.layers.append(Layer(_padded(keys), _padded(values), *own))

    @property
    def lines(self) -> list[int]:
        """The rows of its lines, in order of the slots."""
        return [row for row in self.rows if row >= 0]

    def keep(self, prompts: list[int], device: torch.device) -> None:
        """Hold these of its prompts only."""
        for layer in self.layers:
            heads = layer.prompt_keys.shape[0] // len(self.lengths)
            for name in ("prompt_keys", "prompt_values", "keys", "values"):
                each = getattr(layer, name).unflatten(0, (len(self.lengths), -1))
                kept = each.index_select(0, torch.tensor(prompts, device=device)).flatten(0, 1)
                longest = max(self.lengths[prompt] for prompt in prompts)
                setattr(layer, name, kept[:, :longest].contiguous() if name.startswith("prompt") else kept)
            assert layer.prompt_keys.shape[0] == heads * len(prompts)
        self.rows = [row for prompt in prompts for row in self.rows[prompt * self.answers :][: self.answers]]
        self.lengths = [self.lengths[prompt] for prompt in prompts]

    def start_step(self) -> None:
        """Forget what held for the last token alone."""
        self._masks.clear()

    def mask(self, window: int | None, like: Tensor) -> Tensor | None:
        """(prompts, 1, prompt tokens) what is added to the scores of prompts' tokens: -∞ for what is padding or before the window."""
        if window not in self._masks:
            place = torch.arange(max(self.lengths), device=like.device)[None, :]
            length = torch.tensor(self.lengths, device=like.device)[:, None]
            hidden = place >= length
            if window is not None:
                hidden = hidden | (length + self.tokens - place >= window)
            zeros = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[window] = zeros.masked_fill_(hidden, -torch.inf)[:, None] if bool(hidden.any()) else None
        return self._masks[window]


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """(prompts · kv heads, longest, dim), zeros after a shorter prompt's end."""
    longest = max(part.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(padded)
