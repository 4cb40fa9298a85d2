"""What the fused layers and the head compute element by element, on GPUs compiled into one kernel each.

A GPU is through with these as fast as its memory gives and takes, so what counts is how often a tensor is read and written.
PyTorch's operators, one after the other, read and write an RMS norm's input eight times, a block of logits nine times;
compiled, once or twice. Each function is compiled once, for tensors of any length. On other devices `fused.py` and
`head.py` compute the same in place, and nothing here is called.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compiling = True


def compiling(wanted: bool) -> None:
    """Whether GPUs compute by compiled functions from now on, in this process."""
    global _compiling
    _compiling = wanted


def serves(x: Tensor) -> bool:
    """Whether to call the functions of this module for `x`."""
    return _compiling and x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _compiled(function: _Function) -> _Function:
    """`function`, compiled when it is first called."""
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if not made:
            made.append(torch.compile(function, dynamic=True, fullgraph=True))
        return made[0](*arguments)

    return call  # type: ignore[return-value]


@_compiled
def norm(x: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    """(an RMS norm of x, (tokens, width), in x's type; (tokens, 1) 1/√(mean(x²) + ε) in float32)."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * inverse * (weight.float() + offset)).to(x.dtype), inverse


@_compiled
def norm_input_gradient(upstream: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """d loss / d x of `norm`, (tokens, width)."""
    wide, g = x.float(), upstream.float() * (weight.float() + offset)
    along = (g * wide).sum(-1, keepdim=True) * inverse.pow(3) / x.shape[-1]
    return (g * inverse - wide * along).to(x.dtype)


@_compiled
def norm_weight_gradient(upstream: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """d loss / d weight of `norm`, (width,) float32."""
    return (upstream.float() * x.float() * inverse).sum(0)


@_compiled
def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up."""
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


@_compiled
def gated_gradients(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(d loss / d gate, d loss / d up, silu(gate)·up once more), from d loss / d (silu(gate)·up)."""
    g, z, other = upstream.float(), gate.float(), up.float()
    gate_open = torch.sigmoid(z)
    activated = z * gate_open
    d_gate = g * other * (gate_open + activated * (1 - gate_open))
    return d_gate.to(gate.dtype), (g * activated).to(up.dtype), (activated * other).to(gate.dtype)


@_compiled
def block_statistics(
    raw: Tensor, place: Tensor, picked: Tensor, top: Tensor, total: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(picked, top, total), (tokens, 1) each, after one more block of logits.

    raw: (tokens, columns) logits as the head gives them; place: (tokens,) the target's column, if it is in the block; top,
    total: the largest logit so far and the sum of exp(logit − top).
    """
    shaped = _shaped(raw, scale, softcap)
    picked, top, total, _ = _statistics(shaped, place, picked, top, total)
    return picked, top, total


@_compiled
def block_powers(
    raw: Tensor, place: Tensor, picked: Tensor, top: Tensor, total: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`block_statistics`, exp(old top − new top), (tokens, 1), and exp(logit − top)·slope in raw's type, (tokens, columns)."""
    shaped = _shaped(raw, scale, softcap)
    new_picked, new_top, new_total, powers = _statistics(shaped, place, picked, top, total)
    return (
        new_picked,
        new_top,
        new_total,
        torch.exp(top - new_top),
        (powers * _slope(shaped, scale, softcap)).to(raw.dtype),
    )


@_compiled
def block_gradient(
    raw: Tensor, place: Tensor, top: Tensor, log_total: Tensor, upstream: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """d Σ upstream·log p(target) / d raw, (tokens, columns), in raw's type."""
    shaped = _shaped(raw, scale, softcap)
    here = torch.arange(raw.shape[1], device=raw.device)[None] == place[:, None]
    gradient = here.float() - torch.exp(shaped - top - log_total)
    return (gradient * upstream[:, None] * _slope(shaped, scale, softcap)).to(raw.dtype)


def _statistics(
    shaped: Tensor, place: Tensor, picked: Tensor, top: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = shaped.shape[1]
    inside = ((place >= 0) & (place < columns))[:, None]
    picked = torch.where(inside, shaped.gather(1, place.clamp(0, columns - 1)[:, None]), picked)
    new_top = torch.maximum(top, shaped.amax(1, keepdim=True))
    powers = torch.exp(shaped - new_top)
    return picked, new_top, total * torch.exp(top - new_top) + powers.sum(1, keepdim=True), powers


def _shaped(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    shaped = raw.float() * scale
    return shaped if softcap is None else softcap * torch.tanh(shaped / softcap)


def _slope(shaped: Tensor, scale: float, softcap: float | None) -> Tensor | float:
    return scale if softcap is None else scale * (1 - (shaped / softcap).square())
