"""A model of the Llama or Qwen family as one GGUF file, with llama.cpp's names, order and types of tensors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    TensorNameMap,
    get_tensor_name_map,
    quants,
)
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from worker.dpo.ground.errors import NotFinite
from worker.dpo.publish.gguf_support import ARCHITECTURES, architecture_refusal, rope
from worker.dpo.publish.gguf_tokenizer import write_tokenizer
from worker.dpo.publish.merge import MergeError

# What people name, and the type of the large weights: 16-bit floats, or 8 bits and one scale for 32 weights.
TYPES = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
# From here on rounding to 16 bits gives an infinity: of a weight, or of the scale for 32 weights of up to 127 steps.
TOO_LARGE = {TYPES["f16"]: 65520.0, TYPES["q8_0"]: 127 * 65520.0}
FILE_TYPES = {"f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    weights: str,
    about: dict[str, str],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a float32 model and its tokenizer to the GGUF file `path`.

    weights: a key of TYPES. Matrices get that type, vectors and norms stay float32; a matrix whose rows aren't a
    multiple of 32 long becomes f16 instead of q8_0, as llama.cpp does it. about: `name`, `description`, `license` and
    others of GGUF's `general.…` texts. report: called with (tensors written, tensors in all). Raises MergeError,
    and NotFinite for a weight that the type can't hold.
    """
    config = model.config.get_text_config().to_dict()
    if problem := architecture_refusal(config):
        raise MergeError(problem)
    arch = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(path, arch)
    try:
        _general(writer, about, weights)
        _hyperparameters(writer, config)
        write_tokenizer(writer, tokenizer, config["vocab_size"])
        tensors = list(_tensors(model, config, arch))
        for name, tensor in tensors:
            kind = tensor_type(tensor, weights)
            shape = quants.quant_shape_to_byte_shape(tensor.shape, kind) if _is_blocks(kind) else tuple(tensor.shape)
            stored = np.dtype(np.uint8 if _is_blocks(kind) else np.float16 if kind == TYPES["f16"] else np.float32)
            size = int(np.prod(shape)) * stored.itemsize
            writer.add_tensor_info(name, shape, stored, size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for number, (name, tensor) in enumerate(tensors, start=1):
            data = _rotated(name, tensor, config, arch).to(torch.float32).contiguous().numpy()
            kind = tensor_type(tensor, weights)
            if not np.abs(data).max(initial=0.0) < TOO_LARGE.get(kind, np.inf):
                raise NotFinite(f"{name} has a weight that isn't finite in {weights}. Export it as merged instead.")
            # One tensor at a time: a whole second copy of the model would take the memory of the first.
            writer.write_tensor_data(quants.quantize(data, kind))
            report(number, len(tensors))
    finally:
        writer.close()


def tensor_type(tensor: Tensor, weights: str) -> GGMLQuantizationType:
    """The type that a tensor is stored in."""
    if tensor.ndim < 2:
        return GGMLQuantizationType.F32
    kind = TYPES[weights]
    return TYPES["f16"] if _is_blocks(kind) and tensor.shape[-1] % 32 else kind


def _is_blocks(kind: GGMLQuantizationType) -> bool:
    return kind not in (GGMLQuantizationType.F16, GGMLQuantizationType.F32)


def _general(writer: GGUFWriter, about: dict[str, str], weights: str) -> None:
    writer.add_type("model")
    for name, text in about.items():
        writer.add_string(f"general.{name}", text)
    writer.add_file_type(FILE_TYPES[weights])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _hyperparameters(writer: GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    positions = rope(config)
    writer.add_rope_freq_base(positions["rope_theta"])
    if positions["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(positions["rope_type"]))
        writer.add_rope_scaling_factor(positions["factor"])
    if positions["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(positions["original_max_position_embeddings"])


def _tensors(model: PreTrainedModel, config: dict[str, Any], arch: str) -> Iterator[tuple[str, Tensor]]:
    """(llama.cpp's name, tensor as transformers has it) of everything that goes into the file."""
    names = name_map(arch, config["num_hidden_layers"])
    if rope(config)["rope_type"] == "llama3":
        yield "rope_freqs.weight", _frequency_factors(model, config)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # llama.cpp takes the embeddings where there is no head
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise MergeError(f"GGUF has no name for the model's tensor {name}.")
        yield written, tensor


def name_map(arch: str, layers: int) -> TensorNameMap:
    """llama.cpp's names of transformers' tensors."""
    return get_tensor_name_map(next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch), layers)


def _frequency_factors(model: PreTrainedModel, config: dict[str, Any]) -> Tensor:
    """(head size / 2,) what each rotary frequency is divided by, after transformers' own scaled frequencies."""
    scaled = model.base_model.rotary_emb.inv_freq.double()
    exponents = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float64) / (2 * len(scaled))
    return (rope(config)["rope_theta"] ** -exponents / scaled).float()


def _rotated(name: str, tensor: Tensor, config: dict[str, Any], arch: str) -> Tensor:
    """Query and key rows in the order of llama.cpp's llama architecture, which rotates neighbouring pairs of a head.

    transformers rotates a head's first half against its second; row 2i of a head becomes its row i, row 2i+1 its row
    i + half.
    """
    if arch != MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA] or not any(part in name for part in (".attn_q.", ".attn_k.")):
        return tensor
    heads = config["num_attention_heads"]
    if ".attn_k." in name:
        heads = config.get("num_key_value_heads") or heads
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
