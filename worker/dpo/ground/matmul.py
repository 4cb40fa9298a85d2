"""Matrix products of the linear layers.

On AMD processors in float32 they go through oneDNN, as PyTorch's own bfloat16 products do: MKL, which `F.linear` uses
for float32, is slower there, by a tenth to a half, and as fast or faster on Intel's (`bench/dpo_vs_trl.py` prints both).
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def _is_amd() -> bool:
    described = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (described.read_text() if described.exists() else platform.processor())


_ONEDNN = _is_amd() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ (+ bias), not recorded by autograd. x: (…, in); weight: (out, in), of any strides."""
    if _ONEDNN and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() and weight.numel():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def onednn() -> bool:
    """Whether float32 products go through oneDNN on this machine."""
    return _ONEDNN
