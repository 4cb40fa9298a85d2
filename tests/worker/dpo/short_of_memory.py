"""The engine's command line in a world where the second of several processes has less memory than the first.

SECOND_TAKES: tokens of a training forward above which it runs out. SECOND_PLANS: the token budget that it comes to.
"""

import os
import sys
from dataclasses import replace

import torch

from worker.dpo.commands.cli import main
from worker.dpo.model.scorer import PairScorer
from worker.dpo.run import memory_plan, setup


def run_out_above(tokens: int) -> None:
    real = PairScorer.forward
    calls = []

    def forward(self: PairScorer, rows):  # type: ignore[no-untyped-def]
        # Not before training: the estimate and the check run a pair each.
        calls.append(rows)
        if self.training and rows.tokens > tokens and len(calls) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, rows)

    PairScorer.forward = forward  # type: ignore[method-assign]


def plan_with(budget: int) -> None:
    real = memory_plan.plan_memory
    setup.plan_memory = lambda *args, **kept: replace(real(*args, **kept), token_budget=budget)


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        if "SECOND_TAKES" in os.environ:
            run_out_above(int(os.environ["SECOND_TAKES"]))
        if "SECOND_PLANS" in os.environ:
            plan_with(int(os.environ["SECOND_PLANS"]))
    sys.exit(main())
