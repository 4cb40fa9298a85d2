"""Weights that aren't numbers any more are never written as a result."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from worker.dpo.ground.errors import NotFinite


def broken_weight(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    for name, tensor in named:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def require_finite_model(model: nn.Module, what: str) -> None:
    """Raise NotFinite where a weight of the model isn't finite. what: the model as the message calls it."""
    if (name := broken_weight(model.named_parameters())) is not None:
        raise NotFinite(f"{what} holds numbers that aren't finite in {name}, so nothing was written.")
