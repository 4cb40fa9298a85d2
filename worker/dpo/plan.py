"""The plan: which pairs each optimizer step sees, and how they are dealt into micro-batches.

Both are pure functions of their arguments, so resuming is an index into the plan, and a run on several processes
sees the same steps as a run on one. Shared rows have no padding, so batches are drawn at random and need no
grouping by length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """The batches of a whole run over `pairs` pairs."""

    pairs: int
    batch_size: int
    seed: int
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.pairs / self.batch_size)

    def epoch_of(self, step: int) -> float:
        """Epochs done after `step` optimizer steps."""
        return step / self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of step `step` (from 0). The order is drawn anew for each epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        order = torch.randperm(self.pairs, generator=generator)
        return order[place * self.batch_size : (place + 1) * self.batch_size].tolist()


def make_plan(pairs: int, *, batch_size: int, seed: int, epochs: float, max_steps: int = -1) -> Plan:
    """The plan of a run; `max_steps` above 0 overrules `epochs`."""
    steps = max_steps if max_steps > 0 else max(1, math.ceil(math.ceil(pairs / batch_size) * epochs))
    return Plan(pairs, batch_size, seed, steps)


def _mix(seed: int, epoch: int) -> int:
    # An odd constant spreads neighbouring seeds and epochs apart, so that no two share an order.
    return (seed * 1_000_003 + epoch * 7_919 + 1) % (2**63)


def micro_batches(indices: Sequence[int], costs: Sequence[int], *, budget: int, processes: int = 1) -> list[list[list[int]]]:
    """Deal pairs into micro-batches of at most `budget` tokens; a pair above the budget is alone in one.

    costs: tokens of every pair of the data set, by index. Returns for each process its list of micro-batches, all of
    one length, so that collective operations meet; with fewer pairs than processes some micro-batches are empty.
    """
    by_size = sorted(indices, key=lambda index: (-costs[index], index))
    rounds = max(1, math.ceil(sum(costs[index] for index in indices) / budget / processes))
    while True:
        bins = _deal(by_size, costs, rounds * processes)
        if all(len(held) <= 1 or sum(costs[index] for index in held) <= budget for held in bins):
            return [bins[process::processes] for process in range(processes)]
        rounds += 1


def _deal(by_size: Sequence[int], costs: Sequence[int], count: int) -> list[list[int]]:
    """Longest first, each into the emptiest bin: bins of nearly equal size."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in by_size:
        lightest = loads.index(min(loads))
        bins[lightest].append(index)
        loads[lightest] += costs[index]
    return bins
