"""The optimizer, its learning rate, and weights that are kept more precisely than they are used."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from worker.dpo.ground.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Rate of step `step` (from 0) of `total_steps`, as transformers' schedulers of the same names have it.

    A warm-up begins at zero, so its first step changes nothing; it never takes all the steps that there are.
    """
    warmup = min(math.ceil(total_steps * config.warmup_ratio), total_steps - 1)
    peak = config.peak_learning_rate
    if step < warmup:
        return peak * step / warmup
    if config.lr_scheduler_type == "constant":
        return peak
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if config.lr_scheduler_type == "cosine" else 1 - done)


class Optimizer:
    """AdamW over the trainable parameters; half-precision ones have a float32 copy that takes the steps.

    Without the copy a bfloat16 weight would swallow every step smaller than 1/256 of it, which DPO's mostly are.
    """

    def __init__(self, named: dict[str, nn.Parameter], config: TrainConfig) -> None:
        self.named = named
        self.masters = {
            name: parameter.detach().to(torch.float32).requires_grad_()
            if parameter.dtype in (torch.bfloat16, torch.float16)
            else parameter
            for name, parameter in named.items()
        }
        # Biases and norms take no decay, as transformers' Trainer has it.
        decayed = [master for master in self.masters.values() if master.ndim > 1]
        others = [master for master in self.masters.values() if master.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.inner = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.peak_learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=_can_fuse(self.masters),
        )

    @torch.no_grad()
    def step(self, rate: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """One step at `rate`. With a gradient scaler a step whose gradients overflowed is left out."""
        for group in self.inner.param_groups:
            group["lr"] = rate
        for name, master in self.masters.items():
            if master is not self.named[name]:
                gradient = self.named[name].grad
                master.grad = None if gradient is None else gradient.to(torch.float32)
        if scaler is not None and scaler.is_enabled():
            scaler.step(self.inner)
            scaler.update()
        else:
            self.inner.step()
        for name, master in self.masters.items():
            if master is not self.named[name]:
                self.named[name].copy_(master)
                master.grad = None

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Moments, step counts and float32 copies by name, for a training state."""
        tensors_of = {}
        for name, master in self.masters.items():
            if master is not self.named[name]:
                tensors_of[f"master/{name}"] = master
            for key, value in self.inner.state.get(master, {}).items():
                tensors_of[f"adam/{key}/{name}"] = value
        return tensors_of

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, master in self.masters.items():
            if master is not self.named[name]:
                _copy(master, tensors[f"master/{name}"])
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                saved = tensors.get(f"adam/{key}/{name}")
                if saved is not None:
                    state[key] = self._count(master, saved) if key == "step" else _like(master, saved)
            if state:
                self.inner.state[master] = state

    def _count(self, master: Tensor, saved: Tensor) -> Tensor:
        """A copy of a saved step count, where AdamW keeps it: fused, beside the weights; otherwise on the CPU."""
        return saved.to(master.device if self.inner.defaults["fused"] else "cpu", copy=True)


def _can_fuse(masters: dict[str, Tensor]) -> bool:
    return all(not isinstance(master, DTensor) and master.device.type in ("cpu", "cuda") for master in masters.values())


def full(tensor: Tensor) -> Tensor:
    """The whole tensor. Where FSDP holds it in shards, a collective operation that gathers it on the CPU."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor.detach()


def _like(wanted: Tensor, saved: Tensor) -> Tensor:
    """A copy of `saved` on the device, and in the shards, of `wanted`."""
    if isinstance(wanted, DTensor):
        return distribute_tensor(saved.to(wanted.device), wanted.device_mesh, wanted.placements)
    return saved.to(wanted.device, wanted.dtype).clone()


def _copy(target: Tensor, saved: Tensor) -> None:
    target.copy_(_like(target, saved))


@torch.no_grad()
def restore_weights(named: dict[str, nn.Parameter], tensors: dict[str, Tensor], prefix: str = "") -> None:
    """Put saved weights into the parameters of the same names."""
    for name, parameter in named.items():
        _copy(parameter, tensors[prefix + name])
