"""The decoding loop: many lines, one token each in a step, over a cache of our own.

A step is one row of the model, a token of every line that is under way; its attention (`attention.py`) knows which line a token
belongs to. A line that has ended leaves the row, and when there is room enough the next prompts come in: each is read once
for all its answers. No token is padding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

import torch
from torch import Tensor

from worker.dpo.decoding.attention import Prompts, Step
from worker.dpo.decoding.cache import Block
from worker.dpo.decoding.lines import Limits, Line, Written
from worker.dpo.decoding.packed import PackedLayers
from worker.dpo.decoding.sampling import Sampling, choose, uniforms
from worker.dpo.decoding.states import Model
from worker.dpo.rows.masks import Layout, Strand

# Tokens of the prompts that are read in one row.
ROW = 512
# New lines come in when this share of the places is free: a block for each place alone would be many small products.
FREE = 0.25
# Weights are laid out for no fewer rows, and only where that many steps lie ahead: it takes as long as some steps.
LEAST_ROWS, WORTHWHILE = 8, 16


@dataclass(slots=True)
class _Writing:
    """A line that is under way. position: of its newest token in the sequence; chance: a number for each token to come."""

    line: Line
    chance: Iterator[float]
    position: int
    ids: list[int] = field(default_factory=list)


class Loop:
    """Writes lines with a model. `run` gives each as soon as it has ended."""

    def __init__(
        self, model: Model, sampling: Sampling, limits: Limits, *, between: Callable[[], None] = lambda: None
    ) -> None:
        self._model, self._sampling, self._limits, self._between = model, sampling, limits, between
        self._packs = PackedLayers(model.whole)
        self._may_pack = self._packs.serves()
        self._writing: list[_Writing] = []
        self._blocks: list[Block] = []
        self._waiting: list[list[Line]] = []

    def run(self, lines: Sequence[Line]) -> Iterator[Written]:
        """The answers. Raises what `between` raises, NotFinite, NotShareable."""
        self._waiting = _by_prompt(lines, self._limits.lines)
        try:
            while self._waiting or self._writing:
                self._between()
                if self._has_room():
                    yield from self._admit()
                if self._writing:
                    yield from self._step()
        finally:
            self._packs.remove()

    def _has_room(self) -> bool:
        if not self._waiting:
            return False
        free = self._limits.lines - len(self._writing)
        return free >= len(self._waiting[-1]) and (not self._writing or free >= FREE * self._limits.lines)

    def _admit(self) -> Iterator[Written]:
        """Read prompts for the free places; their lines get their first token, and become one block."""
        free = self._limits.lines - len(self._writing)
        prompts: list[list[Line]] = []
        while self._waiting and len(self._waiting[-1]) <= free:
            prompts.append(self._waiting.pop())
            free -= len(prompts[-1])
        states, keys, values = [], [], []
        for row in _rows([group[0].ids for group in prompts]):
            self._between()
            read = Prompts(_layout(row))
            states.append(self._model.last_states(row, read))
            cuts = [len(ids) for ids in row]
            keys.append([layer.split(cuts, 1) for layer in read.keys])
            values.append([layer.split(cuts, 1) for layer in read.values])
        block = Block([len(group[0].ids) for group in prompts], max(map(len, prompts)), [])
        for number in range(len(keys[0])):
            block.add_layer(
                [part for row in keys for part in row[number]], [part for row in values for part in row[number]]
            )
        del keys, values
        began: list[_Writing] = []
        for group in prompts:
            places = range(len(self._writing) + len(began), len(self._writing) + len(began) + len(group))
            began += [
                _Writing(line, iter(uniforms(line.seed, self._limits.max_new_tokens)), len(line.ids) - 1)
                for line in group
            ]
            block.rows += [*places, *[-1] * (block.answers - len(group))]
        self._writing += began
        self._blocks.append(block)
        each = torch.cat(states).repeat_interleave(
            torch.tensor([len(group) for group in prompts], device=self._model.device), 0
        )
        yield from self._take(self._model.logits(each), began)

    def _step(self) -> Iterator[Written]:
        count = len(self._writing)
        rows = self._rows_for(count)
        tokens = [one.ids[-1] for one in self._writing] + [0] * (rows - count)
        positions = [one.position for one in self._writing] + [0] * (rows - count)
        for block in self._blocks:
            block.start_step()
        states = self._model.states(tokens, positions, Step(self._blocks))
        for block in self._blocks:
            block.tokens += 1
        yield from self._take(self._model.logits(states)[:count], self._writing)

    def _rows_for(self, count: int) -> int:
        """Rows of a step: those that the weights are laid out for, filled up with what no one reads."""
        if not self._may_pack:
            return count
        wanted = self._limits.lines
        while wanted // 2 >= max(count, LEAST_ROWS) and not self._waiting:
            wanted //= 2
        if wanted != self._packs.rows and self._steps_ahead() >= WORTHWHILE:
            self._packs.lay_out(wanted)
        return self._packs.rows or count

    def _steps_ahead(self) -> int:
        """At most: nobody knows when a line ends."""
        waiting = sum(map(len, self._waiting)) / self._limits.lines
        longest = self._limits.max_new_tokens
        return int(waiting * longest) + max(longest - len(one.ids) for one in self._writing)

    def _take(self, logits: Tensor, lines: Sequence[_Writing]) -> Iterator[Written]:
        """Give each of the lines its next token, and let those go that have ended. logits: (lines, vocabulary)."""
        drawn = self._sampling.temperature > 0
        ids = choose(logits, self._sampling, [next(one.chance) for one in lines] if drawn else []).tolist()
        ended = []
        for one, token in zip(lines, ids, strict=True):
            if token in self._limits.ends:
                ended.append(Written(one.line, tuple(one.ids), ended=True))
                one.position = -1
                continue
            one.ids.append(token)
            one.position += 1
            if len(one.ids) == self._limits.max_new_tokens:
                ended.append(Written(one.line, tuple(one.ids), ended=False))
                one.position = -1
        if ended:
            self._drop()
        yield from ended

    def _drop(self) -> None:
        """Take lines that have ended (their position is -1) out of the rows, and prompts without lines out of their blocks."""
        rows: dict[int, int] = {}
        for row, one in enumerate(self._writing):
            if one.position >= 0:
                rows[row] = len(rows)
        self._writing = [self._writing[row] for row in rows]
        for block in self._blocks:
            block.rows = [rows.get(row, -1) for row in block.rows]
            slots = [block.rows[at : at + block.answers] for at in range(0, len(block.rows), block.answers)]
            alive = [number for number, of_prompt in enumerate(slots) if max(of_prompt) >= 0]
            if alive and len(alive) < len(slots):
                block.keep(alive, self._model.device)
        self._blocks = [block for block in self._blocks if block.lines]


def _by_prompt(lines: Sequence[Line], most: int) -> list[list[Line]]:
    """The lines of each prompt, at most so many together, shortest prompt first: the last are taken first."""
    ordered = sorted(lines, key=lambda line: (len(line.ids), line.prompt, line.sample))
    groups = []
    for _, of_prompt in groupby(ordered, key=lambda line: line.prompt):
        rest = iter(of_prompt)
        while group := list(islice(rest, max(1, most))):
            groups.append(group)
    return groups


def _rows(prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The prompts cut into rows of about ROW tokens."""
    row: list[tuple[int, ...]] = []
    for ids in prompts:
        if row and sum(map(len, row)) + len(ids) > ROW:
            yield row
            row = []
        row.append(ids)
    yield row


def _layout(row: Sequence[tuple[int, ...]]) -> Layout:
    strands, begin = [], 0
    for ids in row:
        strands.append(Strand((), begin, begin + len(ids)))
        begin += len(ids)
    return Layout(tuple(strands))
