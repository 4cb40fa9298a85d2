"""How many tokens pairs take together in one forward, and in which order they fit best, in each layout."""

from collections.abc import Sequence
from typing import Protocol

from worker.dpo.data.pairs import TokenPair, pair_length
from worker.dpo.rows.rows import common_length, shared_length


class Packing(Protocol):
    """Sizes, in tokens, of forwards over pairs of one data set. A pair is named by its index.

    alone: tokens of a forward over each pair.
    """

    alone: list[int]

    def order(self, indices: Sequence[int]) -> list[int]:
        """The pairs in the order in which forwards should take them."""

    def grown(self, held: Sequence[int], size: int, index: int) -> int:
        """Tokens of a forward over the pairs `held`, neighbours in `order` that take `size` tokens, and the pair `index`."""

    def together(self) -> int:
        """Tokens of one forward over all pairs, padding left out."""


class SharedPacking:
    """Shared rows: what prompts have in common at their beginning counts once in a row.

    What answers to the same prompt of two pairs have in common is left out of account: a row may turn out shorter.
    """

    def __init__(self, pairs: Sequence[TokenPair]) -> None:
        self.prompts = [pair.prompt_ids for pair in pairs]
        self.alone = [shared_length(pair) for pair in pairs]

    def order(self, indices: Sequence[int]) -> list[int]:
        # Prompts that begin alike come to stand beside each other.
        return sorted(indices, key=lambda index: (self.prompts[index], index))

    def grown(self, held: Sequence[int], size: int, index: int) -> int:
        return size + self.alone[index] - common_length(self.prompts[held[-1]], self.prompts[index])

    def together(self) -> int:
        ordered = self.order(range(len(self.alone)))
        size = self.alone[ordered[0]]
        for place, index in enumerate(ordered[1:]):
            size = self.grown(ordered[place : place + 1], size, index)
        return size


class PlainPacking:
    """Plain rows: two lines a pair, all as wide as the longest of the forward."""

    def __init__(self, pairs: Sequence[TokenPair]) -> None:
        self.alone = [2 * pair_length(pair) for pair in pairs]

    def order(self, indices: Sequence[int]) -> list[int]:
        # Pairs of like length stand together, the longest first, so that a batch too large for the memory fails at once.
        return sorted(indices, key=lambda index: (-self.alone[index], index))

    def grown(self, held: Sequence[int], size: int, index: int) -> int:
        return (len(held) + 1) * self.alone[held[0]]

    def together(self) -> int:
        return sum(self.alone)
