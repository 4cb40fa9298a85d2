"""A loaded model's layers with a cheaper forward, equal within rounding (`fused.py`).

`install` gives it to linear layers, LoRA or not, to norms and to gated MLPs. In the last layer nothing is computed after the
attention's mixing for tokens whose state no one reads (`reading`). `agreement.py` compares the whole with the model as
transformers runs it before a run starts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from worker.dpo.model import fused

_READ: ContextVar[Tensor | None] = ContextVar("read", default=None)


@contextmanager
def reading(places: Tensor | None) -> Iterator[None]:
    """Within it only these tokens' states are read from the last layer, counted through the whole batch; None: all.

    The others' are left unfinished. The backward must not run the forward again (activation checkpointing).
    """
    token = _READ.set(places)
    try:
        yield
    finally:
        _READ.reset(token)


class _Cheaper(partial):
    """A forward of ours, to be told from those that other libraries put on a module."""


def install(model: nn.Module) -> None:
    """Give the model's layers their cheaper forward; `remove` takes it back."""
    inside_lora = {
        id(part) for module in model.modules() if isinstance(module, LoraLinear) for part in module.modules()
    }
    for module in model.modules():
        forward = _forward_for(module, inside_lora)
        if forward is not None:
            module.forward = forward
    for module in _after_the_last_mixing(model):
        module.forward = _Cheaper(_read_forward, module.forward)


def installed(model: nn.Module) -> frozenset[str]:
    """The kinds of modules that have the cheaper forward: `linear`, `norm`, `mlp`, and `last` for the last layer's end."""
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    return frozenset(_KINDS[forward.func] for forward in forwards if isinstance(forward, _Cheaper))


def remove(model: nn.Module) -> None:
    """Undo `install`."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _Cheaper):
            del module.__dict__["forward"]


def _after_the_last_mixing(model: nn.Module) -> list[nn.Module]:
    """Modules of the last layer that take each token by itself, and add to its state: the attention's output and the MLP."""
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and hasattr(module[-1], "mlp")
    ]
    if len(lists) != 1:
        return []
    last = lists[0][-1]
    output = getattr(getattr(last, "self_attn", None), "o_proj", None)
    return [module for module in (output, last.mlp) if isinstance(module, nn.Module)]


def _read_forward(inner: Callable, x: Tensor) -> Tensor:
    """`inner` of the tokens that are read, zeros for the others. x: (lines, length, width)."""
    places = _READ.get()
    if places is None or not places.numel():
        return inner(x)
    read = inner(x.flatten(0, 1).index_select(0, places)[None])[0]
    whole = read.new_zeros(x.shape[0] * x.shape[1], read.shape[-1])
    return whole.index_copy(0, places, read).view(*x.shape[:2], -1)


def _forward_for(module: nn.Module, inside_lora: set[int]) -> _Cheaper | None:
    if isinstance(module, LoraLinear):
        return _Cheaper(_lora_forward, module) if is_plain_lora(module) else None
    if type(module) is nn.Linear and id(module) not in inside_lora:
        return _Cheaper(_linear_forward, module)
    if type(module).__name__.endswith("RMSNorm") and (offset := _norm_offset(module)) is not None:
        return _Cheaper(_norm_forward, module, _epsilon(module), offset)
    if _is_gated_silu(module):
        down = module.down_proj
        known = is_plain_lora(down) if isinstance(down, LoraLinear) else type(down) is nn.Linear
        return _Cheaper(_mlp_forward if known else _half_mlp_forward, module)
    return None


def is_plain_lora(module: LoraLinear) -> bool:
    """One active adapter of the original kind on an ordinary linear layer, neither merged nor with dropout."""
    return (
        type(module.base_layer) is nn.Linear
        and module.active_adapters == ["default"]
        and not module.lora_variant
        and not module.merged
        and not module.lora_bias.get("default", False)
        and isinstance(module.lora_dropout["default"], nn.Identity)
    )


def _lora_forward(module: LoraLinear, x: Tensor) -> Tensor:
    return fused.Linear.apply(_autocast(x), *_weights(module))


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    return fused.Linear.apply(_autocast(x), *_weights(module))


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, float]:
    """Weight, bias, and A, B and scale of a linear layer's adapter where it has one switched on."""
    if not isinstance(module, LoraLinear):
        assert isinstance(module, nn.Linear)
        return module.weight, module.bias, None, None, 1.0
    base = module.base_layer
    if module.disable_adapters:
        return base.weight, base.bias, None, None, 1.0
    return (
        base.weight,
        base.bias,
        module.lora_A["default"].weight,
        module.lora_B["default"].weight,
        module.scaling["default"],
    )


def _autocast(x: Tensor) -> Tensor:
    return x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x


def _epsilon(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))


def _norm_offset(module: nn.Module) -> float | None:
    """0 for Llama's norm, 1 for Gemma's, whose weights are kept less one; None for any other. We try it out."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted = module(x)
        for offset in (0.0, 1.0):
            if torch.allclose(
                fused.RMSNorm.apply(x, weight, _epsilon(module), offset),
                wanted,
                rtol=2e-2 if weight.element_size() == 2 else 1e-4,
            ):
                return offset
    return None


def _norm_forward(module: nn.Module, epsilon: float, offset: float, x: Tensor) -> Tensor:
    return fused.RMSNorm.apply(x, module.weight, epsilon, offset)


def _is_gated_silu(module: nn.Module) -> bool:
    """Llama's MLP: down(silu(gate(x))·up(x)), and nothing else in it."""
    children = {name for name, _ in module.named_children()}
    if children != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    return type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    gate, up = (_autocast(part(x)).flatten(0, -2) for part in (module.gate_proj, module.up_proj))
    return fused.GatedLinear.apply(gate, up, *_weights(module.down_proj)).view(*x.shape[:-1], -1)


def _half_mlp_forward(module: Any, x: Tensor) -> Tensor:
    return module.down_proj(fused.GatedSiLU.apply(module.gate_proj(x), module.up_proj(x)))


_KINDS = {
    _lora_forward: "linear",
    _linear_forward: "linear",
    _norm_forward: "norm",
    _mlp_forward: "mlp",
    _half_mlp_forward: "mlp",
    _read_forward: "last",
}
