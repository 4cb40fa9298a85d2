"""Weights of an export against the trained model's: samples of each tensor, within half a step of the type they have."""

import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import PreTrainedModel

from worker.dpo.publish.figures import Check
from worker.dpo.publish.gguf import TYPES, tensor_type

# Of each tensor that many blocks of 32 neighbouring weights are compared.
BLOCKS, BLOCK = 2048, 32


def sample_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """(blocks, BLOCK) of each tensor's weights, at places that depend on its shape alone; vectors whole."""
    return {name: _blocks(tensor) for name, tensor in model.state_dict().items()}


def _blocks(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or tensor.shape[-1] % BLOCK:
        flat = tensor.reshape(-1)
        return flat[: BLOCKS * BLOCK].clone()
    blocks = tensor.reshape(-1, BLOCK)
    places = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))[:BLOCKS]
    return blocks[places].clone()


def check_weights(sample: dict[str, Tensor], copy: PreTrainedModel, weights: str) -> Check:
    """Sampled weights against the merged ones: each within half a step of its type."""
    wrong, worst = [], 0.0
    tensors = copy.state_dict()
    for name, mine in sample.items():
        if name not in tensors or _blocks(tensors[name]).shape != mine.shape:
            wrong.append(name)
            continue
        steps = float(((_blocks(tensors[name]) - mine).abs() / _step(tensors[name], mine, weights)).max())
        worst = max(worst, steps)
        # Half a step, and a little for the scale that q8_0 stores as a 16-bit float.
        if not steps <= 0.57:
            wrong.append(name)
    says = (
        f"Read by transformers, {', '.join(wrong[:3])} differs from the trained model's weights."
        if wrong
        else f"Read by transformers, all {len(sample)} tensors are the trained model's, rounded to {weights}."
    )
    return Check(
        "weights", "transformers", not wrong, says, {"tensors": len(sample), "differ": len(wrong), "steps": worst}
    )


def _step(tensor: Tensor, mine: Tensor, weights: str) -> Tensor:
    """The distance between neighbouring numbers of the type that `tensor` was stored in, around each of `mine`."""
    if weights in TYPES and tensor_type(tensor, weights) == GGMLQuantizationType.Q8_0:
        return mine.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127
    if weights in TYPES:
        weights = "float16" if tensor_type(tensor, weights) == GGMLQuantizationType.F16 else "float32"
    numbers = torch.finfo(getattr(torch, weights))
    return mine.abs().clamp_min(numbers.tiny) * numbers.eps
