"""Linear layers, norms and gated MLPs that keep and compute no more than DPO needs.

`install` gives modules of a loaded model a forward that is equal within rounding and cheaper: no gradient of a frozen
weight, no float32 copies, LoRA in the same product; in the last layer nothing after the attention's mixing for tokens
whose state no one reads (`reading`). Each is a plain autograd function whose derivative is written out;
`check.py` compares the whole with the model as transformers runs it before a run starts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from worker.dpo.ground.matmul import product


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b + s·(x Aᵀ) Bᵀ. Keeps x and, for LoRA, x Aᵀ."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):  # type: ignore[no-untyped-def]
        flat = x.reshape(-1, x.shape[-1])
        y, low = _product(flat, weight, bias, a, b, scale)
        ctx.scale, ctx.shape = scale, x.shape
        # The weights as they are: under autocast they are cast again in the backward, not kept twice.
        ctx.save_for_backward(flat if _needs_input(ctx.needs_input_grad) else None, weight, a, b, low)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        x, weight, a, b, low = ctx.saved_tensors
        g = upstream.reshape(-1, upstream.shape[-1])
        dx, *others = _product_gradients(g, x, weight, a, b, low, ctx.scale, ctx.needs_input_grad)
        return None if dx is None else dx.view(ctx.shape), *others, None


class _GatedLinear(torch.autograd.Function):
    """The second half of Llama's MLP: `_Linear` of silu(gate)·up. Keeps gate and up, (tokens, width), and
    makes their product again."""

    @staticmethod
    def forward(ctx, gate, up, weight, bias, a, b, scale):  # type: ignore[no-untyped-def]
        y, low = _product(F.silu(gate).mul_(up), weight, bias, a, b, scale)
        ctx.scale = scale
        ctx.save_for_backward(gate, up, weight, a, b, low)
        return y

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        gate, up, weight, a, b, low = ctx.saved_tensors
        needs = ctx.needs_input_grad
        activated = F.silu(gate)
        x = activated * up if _needs_input(needs[1:]) else None
        dx, *others = _product_gradients(g, x, weight, a, b, low, ctx.scale, (needs[0] or needs[1], *needs[2:]))
        if dx is None:
            return None, None, *others, None
        d_up = activated.mul_(dx)
        return torch.ops.aten.silu_backward(dx.mul_(up), gate), d_up, *others, None


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor | None, b: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """(x Wᵀ + b + s·(x Aᵀ) Bᵀ, x Aᵀ). x: (tokens, in)."""
    y = product(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    if a is None or b is None:
        return y, None
    low = product(x, a.to(x.dtype))
    return y.addmm_(low, b.to(x.dtype).t(), alpha=scale), low


def _needs_input(needs: tuple[bool, ...]) -> bool:
    """Whether the derivatives that are asked for, of (x, weight, bias, a, b, …), depend on x."""
    return needs[1] or needs[3]


def _product_gradients(
    g: Tensor,
    x: Tensor | None,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    low: Tensor | None,
    scale: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Derivatives of `_product` by x, weight, bias, a and b, None where `needs` says no. g: (tokens, out)."""
    dx = product(g, weight.to(g.dtype).t()) if needs[0] else None
    dw = product(g.t(), x.t()).to(weight.dtype) if needs[1] and x is not None else None
    dbias = g.sum(0) if needs[2] else None
    if a is None or b is None:
        return dx, dw, dbias, None, None
    g_low = product(g, b.to(g.dtype).t()).mul_(scale)
    if dx is not None:
        dx.addmm_(g_low, a.to(g.dtype))
    if not needs[3] or x is None or low is None:
        return dx, dw, dbias, None, None
    da, db = product(g_low.t(), x.t()), product(low.t(), g.t()).t()
    return dx, dw, dbias, da.to(a.dtype), db.mul(scale).to(b.dtype)


class _RMSNorm(torch.autograd.Function):
    """y = (x / √(mean(x²) + ε))·(w + offset), computed in float32. Keeps x and one number a token."""

    @staticmethod
    def forward(ctx, x, weight, epsilon, offset):  # type: ignore[no-untyped-def]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon)
        )
        gain = weight.to(wide.dtype) + offset if offset else weight
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return (wide * inverse).mul_(gain).to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors
        wide = x.to(inverse.dtype)
        gain = weight.to(inverse.dtype) + ctx.offset if ctx.offset else weight
        upstream = upstream.to(wide.dtype)
        g = upstream * gain
        along = torch.linalg.vecdot(g, wide)[..., None].mul_(inverse**3).div_(x.shape[-1])
        dx = g.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype)
        dw = None
        if ctx.needs_input_grad[1]:
            dw = (upstream * wide).mul_(inverse).flatten(0, -2).sum(0).to(weight.dtype)
        return dx, dw, None, None


class _GatedSiLU(torch.autograd.Function):
    """silu(gate)·up, for a second half that `_GatedLinear` doesn't know. Keeps its two inputs."""

    @staticmethod
    def forward(ctx, gate, up):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(upstream * up, gate), F.silu(gate).mul_(upstream)


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
        module.forward = partial(_read_forward, module.forward)


def remove(model: nn.Module) -> None:
    """Undo `install`."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), partial):
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
    found = inner(x.flatten(0, 1).index_select(0, places)[None])[0]
    whole = found.new_zeros(x.shape[0] * x.shape[1], found.shape[-1])
    return whole.index_copy(0, places, found).view(*x.shape[:2], -1)


def _forward_for(module: nn.Module, inside_lora: set[int]) -> Callable | None:
    if isinstance(module, LoraLinear):
        return partial(_lora_forward, module) if _is_plain_lora(module) else None
    if type(module) is nn.Linear and id(module) not in inside_lora:
        return partial(_linear_forward, module)
    if type(module).__name__.endswith("RMSNorm") and (offset := _norm_offset(module)) is not None:
        return partial(_norm_forward, module, _epsilon(module), offset)
    if _is_gated_silu(module):
        down = module.down_proj
        known = _is_plain_lora(down) if isinstance(down, LoraLinear) else type(down) is nn.Linear
        return partial(_mlp_forward if known else _half_mlp_forward, module)
    return None


def _is_plain_lora(module: LoraLinear) -> bool:
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
    return _Linear.apply(_autocast(x), *_weights(module))


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(_autocast(x), *_weights(module))


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
    """0 for Llama's norm, 1 for Gemma's, whose weights are kept less one; None for any other, found by trying it."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted = module(x)
        for offset in (0.0, 1.0):
            if torch.allclose(
                _RMSNorm.apply(x, weight, _epsilon(module), offset),
                wanted,
                rtol=2e-2 if weight.element_size() == 2 else 1e-4,
            ):
                return offset
    return None


def _norm_forward(module: nn.Module, epsilon: float, offset: float, x: Tensor) -> Tensor:
    return _RMSNorm.apply(x, module.weight, epsilon, offset)


def _is_gated_silu(module: nn.Module) -> bool:
    """Llama's MLP: down(silu(gate(x))·up(x)), and nothing else in it."""
    children = {name for name, _ in module.named_children()}
    if children != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    return type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    gate, up = (_autocast(part(x)).flatten(0, -2) for part in (module.gate_proj, module.up_proj))
    return _GatedLinear.apply(gate, up, *_weights(module.down_proj)).view(*x.shape[:-1], -1)


def _half_mlp_forward(module: Any, x: Tensor) -> Tensor:
    return module.down_proj(_GatedSiLU.apply(module.gate_proj(x), module.up_proj(x)))
