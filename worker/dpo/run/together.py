"""A step that runs out of memory: done again with half the token budget, in all processes or in none."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from worker.dpo.ground.errors import OutOfMemory
from worker.dpo.ground.events import Event
from worker.dpo.ground.memory import is_out_of_memory
from worker.dpo.ground.processes import any_of
from worker.dpo.run.run import Run

T = TypeVar("T")


class AllOutOfMemory(MemoryError):
    """Memory ran out in one process at least, and all of them know it."""


def within_memory(run: Run, step: Callable[[Run], T]) -> T:
    """What `step` gives, tried with half the token budget each time that memory runs out. Raises OutOfMemory."""
    while True:
        try:
            return step(run)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            if run.accelerator.num_processes > 1 and not isinstance(problem, AllOutOfMemory):
                # The others are in the middle of something that takes all processes: no way back but a new start.
                raise too_much(run) from problem
            if run.progress.token_budget // 2 < min(run.setup.packing.alone):
                raise too_much(run) from problem
        # Only here, where the failed step's tensors are let go.
        _halve_budget(run)


def _halve_budget(run: Run) -> None:
    run.optimizer.zero_grad()
    run.ahead = None
    gc.collect()
    if run.setup.scorer.device.type == "cuda":
        torch.cuda.empty_cache()
    budget = run.progress.token_budget
    run.progress.token_budget = budget // 2
    run.setup.events.emit(
        Event.LOG,
        run.progress.step,
        level="warning",
        message=f"Memory ran out: {budget // 2} tokens in a forward instead of {budget}.",
    )


def too_much(run: Run) -> OutOfMemory:
    """The error for a run that no token budget can save."""
    return OutOfMemory(
        f"Memory ran out at step {run.progress.step + 1} with {run.progress.token_budget} tokens in a forward. Lower "
        "max_length, batch_size or token_budget, set gradient_checkpointing=on, or choose a smaller model."
    )


class Agreement:
    """Whether all processes with whole weights have room for the step; they ask each other once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.is_open = run.is_replicated

    def reach(self, ran_out: BaseException | None = None) -> None:
        """Raise AllOutOfMemory in every process when memory ran out in any. One process, or sharded ones, don't ask."""
        if not self.is_open:
            return
        self.is_open = False
        if any_of(self._run.accelerator, ran_out is not None):
            # DDP is prepared for a backward that won't come, and would exchange gradients in the next one that does.
            self._run.wrapped.reducer._reset_state()  # type: ignore[union-attr, operator]
            raise AllOutOfMemory(str(ran_out or "another process ran out of memory"))


@contextmanager
def all_or_none(run: Run) -> Iterator[Agreement]:
    """A block in which a process that runs out of memory before the agreement tells the others, which wait for it there."""
    agreement = Agreement(run)
    ran_out: BaseException | None = None
    try:
        yield agreement
    except Exception as problem:
        if not (agreement.is_open and is_out_of_memory(problem)):
            raise
        ran_out = problem.with_traceback(None)
    if ran_out is not None:
        agreement.reach(ran_out)


@contextmanager
def past_return(run: Run) -> Iterator[None]:
    """A block that changes the weights: a step that runs out of memory in it can't be done again. Raises OutOfMemory."""
    try:
        yield
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        raise too_much(run) from problem
