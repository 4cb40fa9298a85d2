"""Linear layers for a fixed number of rows, their weights laid out for it: products of few rows are much faster.

A product of 32 rows spends most of its time on rearranging the weights for the processor's cache. We do that once. The
operators are those that PyTorch's compiler emits for frozen weights: MKL's where `ground/matmul.py` leaves float32 products to
it, else oneDNN's. Without them, on a GPU or with too little memory for a second copy of the weights, the layers stay.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from worker.dpo.ground import matmul
from worker.dpo.ground.memory import memory_available
from worker.dpo.model.layers import is_plain_lora


@dataclass(slots=True)
class _Packed:
    """A module, the forward that was put on it before, its weights as they are multiplied and as they are laid out."""

    module: Any
    before: Any
    plain: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None
    laid_out: Tensor
    rows: int

    def forward(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1]
        if count != self.rows:
            return self.plain(x)
        flat = x.reshape(count, -1)
        if matmul.onednn():
            y = torch.ops.mkldnn._linear_pointwise(flat, self.laid_out, self.bias, "none", [], "")
        else:
            y = torch.ops.mkl._mkl_linear(flat, self.laid_out, self.weight, self.bias, count)
        return y.view(*x.shape[:-1], -1)


class PackedLayers:
    """The linear layers of a model, LoRA or not, and its head. `lay_out` chooses the number of rows; `remove` undoes all."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._packed: list[_Packed] = []
        self.rows = 0

    def serves(self) -> bool:
        """Whether this machine has the operators, and memory for the copies, and the weights are such as they multiply: an
        adapter's numbers can't be added to coarser ones without changing what the model says."""
        layers = list(_linear_layers(self._model))
        weights = [weight for module, _ in layers for weight in module.parameters()]
        if not weights or any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in weights):
            return False
        ours = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") if matmul.onednn() else _has_mkl()
        needed = sum(base.weight.numel() * base.weight.itemsize for _, base in layers)
        return ours and memory_available(torch.device("cpu")) > 2 * needed

    def lay_out(self, rows: int) -> None:
        """Have products of exactly so many rows use weights that are laid out for them."""
        self.remove()
        reorder = (
            torch.ops.mkldnn._reorder_linear_weight if matmul.onednn() else torch.ops.mkl._mkl_reorder_linear_weight
        )
        for module, base in list(_linear_layers(self._model)):
            before, plain = module.__dict__.get("forward"), module.forward
            weight = base.weight.detach() if module is base else _with_adapter(module)
            packed = _Packed(module, before, plain, weight, base.bias, reorder(weight, rows), rows)
            module.forward = packed.forward
            self._packed.append(packed)
        self.rows = rows

    def remove(self) -> None:
        """Give the layers their own forward back."""
        for packed in self._packed:
            if packed.before is None:
                del packed.module.__dict__["forward"]
            else:
                packed.module.forward = packed.before
        self._packed, self.rows = [], 0


def _has_mkl() -> bool:
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight")


def _linear_layers(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Each linear layer, as (what the model calls, what holds weight and bias): the same where no adapter is around it."""
    inside = {id(part) for module in model.modules() if isinstance(module, LoraLinear) for part in module.modules()}
    for module in model.modules():
        if isinstance(module, LoraLinear):
            if is_plain_lora(module):
                yield module, module.base_layer
        elif type(module) is nn.Linear and id(module) not in inside:
            yield module, module


def _with_adapter(module: LoraLinear) -> Tensor:
    weight = module.base_layer.weight.detach()
    if module.disable_adapters:
        return weight
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return weight.addmm(b.detach(), a.detach(), alpha=module.scaling["default"])
