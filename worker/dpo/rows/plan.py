"""The plan: which pairs each optimizer step sees, and how they are dealt into micro-batches.

Both are pure functions of their arguments, so resuming is an index into the plan, and a run on several processes
sees the same steps as a run on one. Batches are drawn at random; only inside a batch are pairs put beside those that
they share tokens or padding with (`packing.py`).
"""

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from worker.dpo.data.pairs import TokenPair
from worker.dpo.rows.packing import Packing


@dataclass(frozen=True)
class Plan:
    """The batches of a whole run over `pairs` pairs. `keys`: what each pair is, where the order follows from that alone."""

    pairs: int
    batch_size: int
    seed: int
    total_steps: int
    keys: tuple[bytes, ...] | None = field(default=None, repr=False)
    _orders: dict[int, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.pairs / self.batch_size)

    def epoch_of(self, step: int) -> float:
        """Epochs done after `step` optimizer steps."""
        return step / self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of step `step` (from 0). The order is drawn anew for each epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders.clear()  # a run goes through one epoch after the other
            self._orders[epoch] = self._order(epoch)
        return self._orders[epoch][place * self.batch_size : (place + 1) * self.batch_size]

    def _order(self, epoch: int) -> list[int]:
        if self.keys is None:
            generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
            return torch.randperm(self.pairs, generator=generator).tolist()
        drawn = f"{self.seed}/{epoch}/".encode()
        hashes = [hashlib.sha256(drawn + key).digest() for key in self.keys]
        return sorted(range(self.pairs), key=hashes.__getitem__)


def make_plan(
    pairs: int,
    *,
    batch_size: int,
    seed: int,
    epochs: float,
    max_steps: int = -1,
    keys: tuple[bytes, ...] | None = None,
) -> Plan:
    """The plan of a run; `max_steps` above 0 overrules `epochs`. With `keys` an epoch's order is that of hash(seed, epoch, key):
    a pair that isn't there changes nothing in the order of the others, wherever it stood."""
    steps = max_steps if max_steps > 0 else max(1, math.ceil(math.ceil(pairs / batch_size) * epochs))
    return Plan(pairs, batch_size, seed, steps, keys)


def key_of(pair: TokenPair) -> bytes:
    """What a pair is, whatever file it stands in: its prompt and answers as the model sees them."""
    ids = (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).digest()


def _mix(seed: int, epoch: int) -> int:
    # An odd constant spreads neighbouring seeds and epochs apart, so that no two share an order.
    return (seed * 1_000_003 + epoch * 7_919 + 1) % (2**63)


def micro_batches(
    indices: Sequence[int], packing: Packing, *, budget: int, processes: int = 1
) -> list[list[list[int]]]:
    """Deal pairs into micro-batches of at most `budget` tokens; a pair above the budget is alone in one.

    Returns for each process its list of micro-batches, all of one length, so that collective operations meet; with
    fewer pairs than processes some micro-batches are empty.
    """
    ordered = packing.order(indices)
    count = max(1, math.ceil(len(_cut(ordered, packing, budget)) / processes)) * processes
    # The smallest size at which as many are enough: micro-batches of nearly equal size.
    enough = 1 + bisect_left(range(1, budget), True, key=lambda size: len(_cut(ordered, packing, size)) <= count)
    bins = _cut(ordered, packing, enough)
    bins += [[] for _ in range(count - len(bins))]
    return [bins[process::processes] for process in range(processes)]


def _cut(ordered: Sequence[int], packing: Packing, size: int) -> list[list[int]]:
    """Neighbours together, up to `size` tokens."""
    bins: list[list[int]] = []
    taken = 0
    for index in ordered:
        grown = packing.grown(bins[-1], taken, index) if bins else size + 1
        if grown <= size:
            bins[-1].append(index)
            taken = grown
        else:
            bins.append([index])
            taken = packing.alone[index]
    return bins
