"""The moving parts of a run: weights, optimizer, where it stands."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from worker.dpo.data.answers import Answer
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.errors import NotFinite
from worker.dpo.ground.processes import any_of
from worker.dpo.loss.pair_losses import RewardMean
from worker.dpo.publish.finite import broken_weight
from worker.dpo.rows.rows import Rows
from worker.dpo.run.memory_plan import set_checkpointing
from worker.dpo.run.optimizer import Optimizer, full
from worker.dpo.run.setup import RunSetup
from worker.dpo.run.state import Progress
from worker.dpo.run.trackers import Trackers


class References(NamedTuple):
    """(2, pairs) reference log-probabilities in nats, chosen first; None where no loss needs them, or there are no pairs."""

    train: Tensor | None
    evaluation: Tensor | None


class Work(NamedTuple):
    """What one process does in a step: the step's pairs, its own micro-batches of them, and the rows of the first."""

    step: int
    budget: int
    batch: list[int]
    mine: list[list[int]]
    first: Rows


class Run:
    """A run in motion, at step 0 until a training state is put into it. What was settled before is in `setup`.

    wrapped: the scorer in DDP or FSDP where there are several processes, else the scorer itself. named: the trainable
    parameters by their names in the scorer. metrics: those of the last step; metrics_before, metrics_after: those of
    the first and of the last evaluation. answers_before: greedy answers to the sampled prompts before the first step;
    None where the training state, of an earlier version, didn't keep them. margins: (pairs,) reward margins of the last
    evaluation, in nats; None before there is one in this sitting. best_sha256: hash of
    the file that holds the best weights, where there is one (on the first process only).
    """

    def __init__(self, setup: RunSetup, reference: References, trackers: Trackers) -> None:
        self.setup, self.reference, self.trackers = setup, reference, trackers
        self.accelerator = setup.accelerator
        set_checkpointing(setup.scorer, setup.memory.checkpointing)
        self.wrapped = _wrapped(setup)
        # Some thousands: to walk through them again at every step, or to set them, takes the host as long as many kernels.
        self.modules = list(self.wrapped.modules())
        self.named: dict[str, nn.Parameter] = {
            name: weight for name, weight in setup.scorer.named_parameters() if weight.requires_grad
        }
        self.optimizer = Optimizer(self.named, setup.config)
        halves = setup.config.mixed_precision == "fp16" or setup.config.dtype == "float16"
        self.scaler = torch.amp.GradScaler(setup.scorer.device.type, enabled=halves)
        self.progress = Progress(token_budget=setup.memory.token_budget)
        self.reward_mean = RewardMean()
        # Of the next step, made while the device was at work on the last.
        self.ahead: Work | None = None
        self.metrics: dict[str, float] = {}
        self.metrics_before: dict[str, float] = {}
        self.metrics_after: dict[str, float] = {}
        self.margins: Tensor | None = None
        self.answers_before: list[Answer] | None = []
        self.best_sha256: str | None = None
        self.started, self.started_step = time.monotonic(), 0
        self.saved_step, self.saved_at = 0, time.monotonic()

    @property
    def config(self) -> TrainConfig:
        return self.setup.config

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP has spread the weights over the processes."""
        return isinstance(self.wrapped, FSDPModule)

    @property
    def is_replicated(self) -> bool:
        """Whether there are several processes with whole weights, which meet once a step."""
        return self.accelerator.num_processes > 1 and not self.is_sharded

    @property
    def seconds(self) -> float:
        """Time in training, over all sittings of a resumed run."""
        return self.progress.seconds + time.monotonic() - self.started

    def weights(self) -> dict[str, Tensor]:
        """The trainable weights by name, whole; a collective operation where they are sharded."""
        return {name: full(parameter) for name, parameter in self.named.items()}

    def require_finite(self, weights: Mapping[str, Tensor]) -> None:
        """Raise NotFinite where a step destroyed the weights: they are neither kept nor published."""
        if (name := broken_weight(weights.items())) is not None:
            raise NotFinite(
                f"After step {self.progress.step} the weights in {name} aren't finite numbers. "
                f"Nothing was published. {self.advice}"
            )

    @property
    def advice(self) -> str:
        """What to do about numbers that aren't finite."""
        return f"Lower learning_rate (it is {self.config.peak_learning_rate:g}) or use dtype=float32."

    def exchanging(self, now: bool) -> AbstractContextManager:
        """A block whose backward exchanges gradients between the processes, or keeps them to itself."""
        return nullcontext() if now else self.accelerator.no_sync(self.wrapped)

    def check_stop(self) -> None:
        """Raise Terminated on every process once a signal reached any of them."""
        self.setup.stop.requested = any_of(self.accelerator, self.setup.stop.requested)
        self.setup.stop.check()


def _wrapped(setup: RunSetup) -> nn.Module:
    """The scorer in DDP or FSDP where there are several processes."""
    if setup.accelerator.num_processes == 1:
        return setup.scorer
    wrapped: nn.Module = setup.accelerator.prepare(setup.scorer)
    if isinstance(wrapped, FSDPModule):
        # Accelerate's own settings may have its layers recomputed.
        setup.scorer.recomputes = True
        register_fsdp_forward_method(wrapped, "lend")
    return wrapped
