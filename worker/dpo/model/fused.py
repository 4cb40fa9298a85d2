"""Linear layers, norms and gated MLPs as autograd functions that keep and compute no more than DPO needs.

Each equals what transformers and peft compute, within rounding, with its derivative written out: no gradient of a
frozen weight, no float32 copies, LoRA in the same product. `layers.py` puts them into a model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.dpo.ground.matmul import product
from worker.dpo.model import pointwise


class Linear(torch.autograd.Function):
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


class GatedLinear(torch.autograd.Function):
    """The second half of Llama's MLP: `Linear` of silu(gate)·up. Keeps gate and up, (tokens, width), and
    makes their product again."""

    @staticmethod
    def forward(ctx, gate, up, weight, bias, a, b, scale):  # type: ignore[no-untyped-def]
        y, low = _product(_gated(gate, up), weight, bias, a, b, scale)
        ctx.scale = scale
        ctx.save_for_backward(gate, up, weight, a, b, low)
        return y

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        gate, up, weight, a, b, low = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if pointwise.serves(gate):
            return *_gated_gradients(g, gate, up, weight, a, b, low, ctx.scale, needs), None
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
    g_low = None if a is None or b is None else product(g, b.to(g.dtype).t()).mul_(scale)
    dx = _input_gradient(g, g_low, weight, a) if needs[0] else None
    return dx, *_weight_gradients(g, g_low, x, weight, a, b, low, scale, needs)


def _input_gradient(g: Tensor, g_low: Tensor | None, weight: Tensor, a: Tensor | None) -> Tensor:
    dx = product(g, weight.to(g.dtype).t())
    return dx if g_low is None or a is None else dx.addmm_(g_low, a.to(g.dtype))


def _weight_gradients(
    g: Tensor,
    g_low: Tensor | None,
    x: Tensor | None,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    low: Tensor | None,
    scale: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Derivatives of `_product` by weight, bias, a and b. g_low: s·g B."""
    dw = product(g.t(), x.t()).to(weight.dtype) if needs[1] and x is not None else None
    dbias = g.sum(0) if needs[2] else None
    if g_low is None or a is None or b is None or not needs[3] or x is None or low is None:
        return dw, dbias, None, None
    da, db = product(g_low.t(), x.t()), product(low.t(), g.t()).t()
    return dw, dbias, da.to(a.dtype), db.mul(scale).to(b.dtype)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return pointwise.gated(gate, up) if pointwise.serves(gate) else F.silu(gate).mul_(up)


def _gated_gradients(
    g: Tensor,
    gate: Tensor,
    up: Tensor,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    low: Tensor | None,
    scale: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Derivatives of `GatedLinear` by gate, up, weight, bias, a and b, on a GPU."""
    g_low = None if a is None or b is None else product(g, b.to(g.dtype).t()).mul_(scale)
    d_gate, d_up, x = pointwise.gated_gradients(_input_gradient(g, g_low, weight, a), gate, up)
    return d_gate, d_up, *_weight_gradients(g, g_low, x, weight, a, b, low, scale, needs[1:])


class RMSNorm(torch.autograd.Function):
    """y = (x / √(mean(x²) + ε))·(w + offset), computed in float32. Keeps x and one number a token."""

    @staticmethod
    def forward(ctx, x, weight, epsilon, offset):  # type: ignore[no-untyped-def]
        ctx.offset = offset
        if pointwise.serves(x):
            y, inverse = pointwise.norm(x.flatten(0, -2), weight, epsilon, offset)
            ctx.save_for_backward(x, weight, inverse)
            return y.view(x.shape)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon)
        )
        gain = weight.to(wide.dtype) + offset if offset else weight
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(gain).to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors
        if pointwise.serves(x):
            g, flat = upstream.flatten(0, -2), x.flatten(0, -2)
            dx = pointwise.norm_input_gradient(g, flat, weight, inverse, ctx.offset).view(x.shape)
            wanted = ctx.needs_input_grad[1]
            dw = pointwise.norm_weight_gradient(g, flat, inverse).to(weight.dtype) if wanted else None
            return dx, dw, None, None
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


class GatedSiLU(torch.autograd.Function):
    """silu(gate)·up, for a second half that `GatedLinear` doesn't know. Keeps its two inputs."""

    @staticmethod
    def forward(ctx, gate, up):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        gate, up = ctx.saved_tensors
        if pointwise.serves(gate):
            return pointwise.gated_gradients(upstream, gate, up)[:2]
        return torch.ops.aten.silu_backward(upstream * up, gate), F.silu(gate).mul_(upstream)
