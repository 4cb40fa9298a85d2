"""Linear layers, norms and gated MLPs that keep and compute no more than DPO needs.

`install` gives modules of a loaded model a forward that is equal within rounding and cheaper: no gradient of a frozen
weight, no float32 copies, LoRA in the same product. Each is a plain autograd function whose derivative is written out;
`check.py` compares the whole with the model as transformers runs it before a run starts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from worker.dpo.matmul import product


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b + s·(x Aᵀ) Bᵀ. Keeps x and, for LoRA, x Aᵀ."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):  # type: ignore[no-untyped-def]
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        low = None
        if a is not None:
            low = product(flat, a.to(x.dtype))
            y.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        keeps_input = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        ctx.scale, ctx.shape = scale, x.shape
        # The weights as they are: under autocast they are cast again in the backward, not kept twice.
        ctx.save_for_backward(flat if keeps_input else None, weight, a, b, low)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        x, weight, a, b, low = ctx.saved_tensors
        g = upstream.reshape(-1, upstream.shape[-1])
        dx = dw = dbias = da = db = None
        if ctx.needs_input_grad[0]:
            dx = product(g, weight.to(g.dtype).t())
        if ctx.needs_input_grad[1]:
            dw = product(g.t(), x.t()).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            dbias = g.sum(0)
        if a is not None:
            g_low = product(g, b.to(g.dtype).t()).mul_(ctx.scale)
            if dx is not None:
                dx.addmm_(g_low, a.to(g.dtype))
            if ctx.needs_input_grad[3]:
                da = product(g_low.t(), x.t()).to(a.dtype)
                db = product(g.t(), low.t()).mul_(ctx.scale).to(b.dtype)
        return None if dx is None else dx.view(ctx.shape), dw, dbias, da, db, None


class _RMSNorm(torch.autograd.Function):
    """y = (x / √(mean(x²) + ε))·(w + offset), computed in float32. Keeps x and one number a token."""

    @staticmethod
    def forward(ctx, x, weight, epsilon, offset):  # type: ignore[no-untyped-def]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon))
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
        dx = (g * inverse).addcmul_(wide, along, value=-1).to(x.dtype)
        dw = None
        if ctx.needs_input_grad[1]:
            dw = (upstream * wide).mul_(inverse).flatten(0, -2).sum(0).to(weight.dtype)
        return dx, dw, None, None


class _GatedSiLU(torch.autograd.Function):
    """silu(gate)·up. Keeps its two inputs; the product is recomputed nowhere and copied nowhere."""

    @staticmethod
    def forward(ctx, gate, up):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        gate, up = ctx.saved_tensors
        d_up = F.silu(gate).mul_(upstream)
        return torch.ops.aten.silu_backward(upstream * up, gate), d_up


def install(model: nn.Module) -> None:
    """Give the model's layers their cheaper forward; `remove` takes it back."""
    inside_lora = {id(part) for module in model.modules() if isinstance(module, LoraLinear) for part in module.modules()}
    for module in model.modules():
        forward = _forward_for(module, inside_lora)
        if forward is not None:
            module.forward = forward


def remove(model: nn.Module) -> None:
    """Undo `install`."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), partial):
            del module.__dict__["forward"]


def _forward_for(module: nn.Module, inside_lora: set[int]) -> Callable | None:
    if isinstance(module, LoraLinear):
        return partial(_lora_forward, module) if _is_plain_lora(module) else None
    if type(module) is nn.Linear and id(module) not in inside_lora:
        return partial(_linear_forward, module)
    if type(module).__name__.endswith("RMSNorm") and (offset := _norm_offset(module)) is not None:
        return partial(_norm_forward, module, _epsilon(module), offset)
    if _is_gated_silu(module):
        return partial(_mlp_forward, module)
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
    x, base = _autocast(x), module.base_layer
    if module.disable_adapters:
        return _Linear.apply(x, base.weight, base.bias, None, None, 1.0)
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return _Linear.apply(x, base.weight, base.bias, a, b, module.scaling["default"])


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(_autocast(x), module.weight, module.bias, None, None, 1.0)


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
                _RMSNorm.apply(x, weight, _epsilon(module), offset), wanted, rtol=2e-2 if weight.element_size() == 2 else 1e-4
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
    return module.down_proj(_GatedSiLU.apply(module.gate_proj(x), module.up_proj(x)))
