"""Decoder layers compiled by `torch.compile`: one kernel where the operators of a layer, one after the other, would be ten.

What a GPU spends its time on is then the layers' products, and the host launches a third of the kernels. All layers of
a kind share one compile, for rows of any length: FlexAttention is compiled into the layer, and the tables of its mask are
inputs. LoRA matrices are cast to the type of the products once a forward, all together (`Shadows`).
"""

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from worker.dpo.model import flex_attention, layers
from worker.dpo.rows.masks import Layout

BACKEND = "inductor"
# Attributes of modules that differ from layer to layer, or in a run, and aren't part of a graph: numbers and names, among
# them those of the arguments that PEFT made a module with.
_NOT_COMPUTED_WITH = frozenset({"training", "layer_idx", "kwargs"})


def install(model: nn.Module, *, whole: bool = True) -> None:
    """Compile the model's decoder layers when they are first called, and give what lies outside them its cheaper forward.

    whole: the attention's kernel with the layer; False: all but it, for where it can't be compiled with the rest.
    """
    # One code object serves layers of several kinds, with gradients and without, in training and in evaluation.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    # An epsilon is a constant. As an input it would be a tensor on the CPU, made and read again at every call.
    torch._dynamo.config.specialize_float = True
    layers.install(model)
    kinds: dict[Hashable, int] = {}
    functions: dict[Hashable, Callable[..., Any]] = {}
    lora: list[nn.Module] = []
    for layer in decoder_layers(model):
        layers.remove(layer)
        for module in layer.modules():
            if _is_known_lora(module):
                module.forward = MethodType(_lora_forward, module)
                lora.append(module)
        # Numbers: what a layer is made of is long, and would be hashed at every call.
        kind = kinds.setdefault(_kind(layer), len(kinds))
        layer.forward = _Compiled(layer, kind, functions, whole)
    model.__dict__["compiled_lora"], model.__dict__["compiled_whole"] = lora, whole


class _Compiled:
    """A layer's forward: compiled, and recomputed in the backward where the layer is told so.

    Some hundred checks before every call, that no module in the layer has changed, would cost more time than the call. So
    what tells one layer's graph from another's is asked here: what the modules were at the start, and what changes in a run.
    kind: a number for the former. functions: compiled functions by both, shared by all layers.
    """

    def __init__(self, layer: nn.Module, kind: int, functions: dict[Hashable, Callable[..., Any]], whole: bool) -> None:
        self.layer, self.kind, self.functions, self.whole = layer, kind, functions, whole
        self.lora = next((module for module in layer.modules() if _is_known_lora(module)), None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not isinstance(options.get("prefix_layout"), flex_attention.Masks):
            # Text is generated, a token at a time: nothing to compile for.
            return type(self.layer).forward(self.layer, *arguments, **options)
        x, *others = arguments
        if torch.is_grad_enabled() and not x.requires_grad:
            # Or the first layer, whose input needs no gradient under LoRA, would be compiled for itself.
            arguments = (x.detach().requires_grad_(), *others)
        forward = self._forward()
        if getattr(self.layer, "gradient_checkpointing", False) and self.layer.training:
            call = partial(forward, self.layer, **options)
            return checkpoint(call, *arguments, use_reentrant=False)
        return forward(self.layer, *arguments, **options)

    def _forward(self) -> Callable[..., Any]:
        lora = self.lora
        now = None if lora is None else (lora._disable_adapters, "shadow" in lora.__dict__)
        key = (self.kind, self.layer.training, torch.is_grad_enabled(), now)
        if key not in self.functions:
            # Past the wrapper that recomputes activations: what is compiled is computed again as a whole.
            forward = inspect.unwrap(type(self.layer).forward)
            # A function of its own: graphs of one function are found by the checks that are left out.
            forward = FunctionType(
                forward.__code__.replace(),
                forward.__globals__,
                forward.__name__,
                forward.__defaults__,
                forward.__closure__,
            )
            self.functions[key] = torch.compile(
                forward,
                dynamic=True,
                fullgraph=self.whole,
                backend=BACKEND,
                options={"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe},
            )
        return self.functions[key]


def _kind(layer: nn.Module) -> Hashable:
    """What a layer is made of, for two layers to share a graph: its modules' types and plain attributes, its weights' types.

    Without the layer's number, which no forward computes with.
    """
    modules = tuple(
        (
            name,
            type(module),
            tuple(
                (key, _plainly(value))
                for key, value in sorted(module.__dict__.items())
                if key not in _NOT_COMPUTED_WITH
            ),
        )
        for name, module in layer.named_modules()
    )
    weights = tuple(
        (name, weight.dtype, weight.shape, weight.requires_grad) for name, weight in layer.named_parameters()
    )
    return modules, weights


def _plainly(value: Any) -> Hashable:
    """An attribute as far as it can be a constant of a graph; of others, such as hooks and weights, the type's name."""
    if isinstance(value, dict):
        return tuple((name, _plainly(part)) for name, part in value.items() if isinstance(name, str))
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return f"{type(value).__module__}.{type(value).__qualname__}"


def remove(model: nn.Module) -> None:
    """Undo `install`."""
    layers.remove(model)
    for name in ("compiled_lora", "compiled_whole"):
        model.__dict__.pop(name, None)
    for layer in decoder_layers(model):
        if isinstance(layer.__dict__.get("forward"), _Compiled):
            del layer.__dict__["forward"]
            for module in layer.modules():
                if _is_known_lora(module):
                    module.__dict__.pop("forward", None)
                    module.__dict__.pop("shadow", None)


def installed(model: nn.Module) -> bool:
    """Whether the decoder's layers run compiled."""
    return "compiled_lora" in model.__dict__


def masks(model: nn.Module, layout: Layout, window: int | None, device: torch.device) -> flex_attention.Masks:
    """What the model's compiled layers take for a row's layout."""
    return flex_attention.masks(layout, window, device, apart=not model.__dict__["compiled_whole"])


@contextmanager
def shadowed(model: nn.Module, *, keep: bool) -> Iterator[None]:
    """Within it the model's compiled layers find their LoRA matrices in the type of the weights beside them.

    keep: leave them there afterwards, for a backward that runs the layers again.
    """
    modules = [] if torch.is_autocast_enabled() else model.__dict__.get("compiled_lora", [])
    pairs = [(module.lora_A["default"].weight, module.lora_B["default"].weight) for module in modules]
    wanted = modules[0].base_layer.weight.dtype if modules else None
    if (
        not modules
        or modules[0].disable_adapters
        or not all(_to_be_cast(part, wanted) for pair in pairs for part in pair)
    ):
        yield
        return
    scales = [module.scaling["default"] for module in modules]
    cast = Shadows.apply(wanted, scales, *(pair[0] for pair in pairs), *(pair[1] for pair in pairs))
    for number, module in enumerate(modules):
        module.__dict__["shadow"] = cast[number], cast[number + len(modules)]
    try:
        yield
    finally:
        if not keep:
            for module in modules:
                del module.__dict__["shadow"]


def _to_be_cast(matrix: Tensor, wanted: torch.dtype | None) -> bool:
    return matrix.dtype != wanted and not isinstance(matrix, DTensor)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's one stack of layers; none where there are several stacks."""
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and hasattr(module[-1], "mlp")
    ]
    return list(stacks[0]) if len(stacks) == 1 else []


def _is_known_lora(module: nn.Module) -> bool:
    """One active adapter of the original kind on an ordinary linear layer, not merged. It may have dropout."""
    return (
        isinstance(module, LoraLinear)
        and type(module.base_layer) is nn.Linear
        and module.active_adapters == ["default"]
        and not module.lora_variant
        and not module.merged
        and not module.lora_bias.get("default", False)
    )


def _lora_forward(module: Any, x: Tensor) -> Tensor:
    """x Wᵀ + b + (x Aᵀ)(s·B)ᵀ in the type of x, as it is traced."""
    base = module.base_layer
    y = F.linear(x, base.weight, base.bias)
    if module._disable_adapters:
        return y
    shadow = module.__dict__.get("shadow")
    if shadow is None:
        a = module.lora_A["default"].weight.to(x.dtype)
        b = (module.lora_B["default"].weight * module.scaling["default"]).to(x.dtype)
    else:
        a, b = shadow
    return y + F.linear(F.linear(module.lora_dropout["default"](x), a), b)


class Shadows(torch.autograd.Function):
    """LoRA matrices in another type: A as it is, B times its scale. (type, scales, A…, B…) -> (A…, B…).

    All in a few kernels, forward and backward: cast one by one, they would be two kernels each, some hundred in all.
    """

    @staticmethod
    def forward(ctx, dtype, scales, *matrices):  # type: ignore[no-untyped-def]
        ctx.scales = scales
        half = len(matrices) // 2
        scaled = [*matrices[:half], *torch._foreach_mul(matrices[half:], scales)]
        cast = [torch.empty_like(matrix, dtype=dtype) for matrix in matrices]
        torch._foreach_copy_(cast, scaled)
        return tuple(cast)

    @staticmethod
    def backward(ctx, *upstream):  # type: ignore[no-untyped-def]
        half = len(upstream) // 2
        gradients = [torch.empty_like(matrix, dtype=torch.float32) for matrix in upstream]
        torch._foreach_copy_(gradients, list(upstream))
        torch._foreach_mul_(gradients[half:], ctx.scales)
        return None, None, *gradients
