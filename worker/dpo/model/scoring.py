"""Log-probabilities of many pairs without gradients: for the reference, for evaluation and for `score`."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.stopping import Stop
from worker.dpo.machine.threads import Threads
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.plan import micro_batches


@torch.no_grad()
def score_pairs(
    scorer: PairScorer,
    pairs: Sequence[TokenPair],
    *,
    budget: int,
    accelerator: Accelerator | None = None,
    stop: Stop | None = None,
    threads: Threads | None = None,
    on_scored: Callable[[list[int], Tensor], None] | None = None,
) -> Tensor:
    """(2, pairs) log-probabilities on the CPU, in float64, chosen first; every process gets all of them.

    threads: chooses how many compute, a micro-batch at a time.
    on_scored: called on each process after each of its micro-batches with the pairs' indices and their (2, …) numbers.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    values = torch.zeros(2, len(pairs), dtype=torch.float64)
    packing = scorer.packing(pairs)
    for indices in micro_batches(range(len(pairs)), packing, budget=budget, processes=processes)[rank]:
        if stop is not None and processes == 1:
            stop.check()
        if threads is not None:
            threads.before("reference")
        # An empty micro-batch still runs: sharded weights are gathered by all processes together.
        logps = scorer(scorer.rows([pairs[index] for index in indices or [0]])).to("cpu", torch.float64)
        if threads is not None:
            threads.after(sum(packing.alone[index] for index in indices))
        if indices:
            values[:, indices] = logps
            if on_scored is not None:
                on_scored(indices, logps)
    if accelerator is not None and processes > 1:
        values = accelerator.reduce(values.to(scorer.device), reduction="sum").cpu()
    return values
