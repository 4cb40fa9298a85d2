"""Base model, tokenizer and adapter, loaded for training. We read no pickled weights and run no code of a model's folder."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.disk import file_sha256
from worker.dpo.ground.errors import BadSetting
from worker.dpo.ground.memory import is_out_of_memory

MOST_CHARACTERS = 4000
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class ModelError(BadSetting):
    """A model or adapter that can't be loaded or trained as asked. The text says what to do."""


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id. Raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(f"Cannot load a tokenizer from {model}: {_first_line(problem)}") from problem


def read_config(model: str) -> PretrainedConfig:
    """transformers' configuration of a model folder or hub id, of its text part. Raises ModelError."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(f"Cannot read the model {model}: {_first_line(problem)}") from problem
    return config


def load_base(model: str, *, dtype: str, device: str = "cpu", load_in_4bit: bool = False) -> PreTrainedModel:
    """A causal language model in `dtype` on `device`, without any dropout. Raises ModelError."""
    options: dict = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    options |= _four_bit(device, options["dtype"]) if load_in_4bit else {"ignore_mismatched_sizes": True}
    if (Path(model) / ADAPTER).is_file() and not (Path(model) / "config.json").is_file():
        raise ModelError(
            f"{model} holds an adapter, not a model. Name the model that it was trained on, and it as the adapter."
        )
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as problem:
        if is_out_of_memory(problem):
            raise
        raise ModelError(f"Cannot load the model {model}: {_first_line(problem)}") from problem
    # transformers fills both with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{model} is damaged: its files lack {_some(missing)}. Fetch the model anew.")
    if other := sorted(str(key) for key, *_ in report["mismatched_keys"]):
        raise ModelError(
            f"{model} is damaged: {_some(other)} isn't of the size that its config.json says. Fetch it anew."
        )
    if not load_in_4bit:
        loaded.to(device)
    remove_dropout(loaded)
    return loaded


def _four_bit(device: str, compute: torch.dtype) -> dict:
    if not device.startswith("cuda"):
        raise ModelError(
            "4-bit training (QLoRA) needs a CUDA GPU with bitsandbytes. On this machine set load_in_4bit=false."
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as problem:
        raise ModelError(
            "4-bit training (QLoRA) needs bitsandbytes: pip install bitsandbytes, or set load_in_4bit=false."
        ) from problem
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def remove_dropout(model: nn.Module) -> None:
    """Switch off every dropout of the base model, since policy and reference may differ in their weights only."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def prepare_policy(base: PreTrainedModel, config: TrainConfig) -> PreTrainedModel | PeftModel:
    """The model to train: the base with a new or an existing LoRA adapter, or itself in full. Raises ModelError."""
    if not config.is_lora:
        base.requires_grad_(True)
        return base
    if config.adapter is not None:
        return load_adapter(base, config.adapter, trainable=True)
    torch.manual_seed(config.seed)
    targets = config.lora_target_modules
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        # Mamba's kernels read this layer's weight themselves and pass over an adapter, so peft refuses it.
        exclude_modules=["out_proj"] if "mamba" in base.config.model_type and targets == "all-linear" else None,
        target_modules=targets if targets == "all-linear" else ([targets] if isinstance(targets, str) else targets),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, lora)
    except ValueError as problem:
        raise ModelError(f"Cannot put LoRA on this model: {_first_line(problem)}") from problem


def load_adapter(base: PreTrainedModel, adapter: str, *, trainable: bool = False) -> PeftModel:
    """The base with the adapter of a folder. Raises ModelError."""
    weights = Path(adapter) / ADAPTER_WEIGHTS
    if weights.parent.is_dir() and not weights.exists():
        raise ModelError(f"{adapter} holds no {ADAPTER_WEIGHTS}. Name the folder that a training run wrote.")
    try:
        policy = PeftModel.from_pretrained(base, adapter, is_trainable=trainable, use_safetensors=True)
        if weights.exists():
            _require_whole(policy, weights)
        return policy
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        if isinstance(problem, ModelError) or is_out_of_memory(problem):
            raise
        raise ModelError(f"Cannot load the adapter {adapter}: {_all_lines(problem)}") from problem


def adapter_name(adapter: str) -> str:
    """An adapter's own: the SHA-256 of what its folder holds, wherever that lies, or the id at a hub. Raises ModelError."""
    folder = Path(adapter)
    if not folder.is_dir():
        return adapter
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        config.pop("base_model_name_or_path", None)  # a folder of this machine
        weights = file_sha256(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, AttributeError) as problem:
        raise ModelError(f"Cannot read the adapter {adapter}: {_first_line(problem)}") from problem
    return hashlib.sha256(json.dumps([config, weights], sort_keys=True).encode()).hexdigest()


def _require_whole(policy: PeftModel, weights: Path) -> None:
    """Raise ModelError unless the file has a matrix for each place in the model, and a place for each: peft only warns."""
    with safe_open(weights, framework="pt") as file:
        kept = {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118
    wanted = {name for name in get_peft_model_state_dict(policy, save_embedding_layers=False) if ".lora_" in name}
    if missing := sorted(wanted - kept):
        raise ModelError(
            f"The adapter {weights.parent} lacks {_some(missing)}: it is damaged, or was trained on a smaller model."
        )
    if strangers := sorted(kept - wanted):
        raise ModelError(
            f"The adapter {weights.parent} has {_some(strangers)}, for which the model has no place. Name the model that it "
            "was trained on."
        )


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def choose_device(wanted: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. Raises ModelError for a device that isn't there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("This machine has no usable CUDA device. Set device=cpu.")
    return wanted


def adapter_is_new(policy: nn.Module, config: TrainConfig) -> bool:
    """Whether the reference is the base with the adapter switched off: only for an adapter that starts as nothing."""
    return isinstance(policy, PeftModel) and config.adapter is None


@contextlib.contextmanager
def as_reference(policy: nn.Module, *, adapter_off: bool) -> Iterator[None]:
    """The policy as the reference inside the block: no dropout, no gradients, and without a new adapter."""
    training = policy.training
    policy.eval()
    try:
        off = policy.disable_adapter() if adapter_off and isinstance(policy, PeftModel) else contextlib.nullcontext()
        with torch.no_grad(), off:
            yield
    finally:
        policy.train(training)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of every weight and buffer as it lies in memory, with its name, type and shape."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        flat = tensor.detach().to("cpu").contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def save_weights(policy: PreTrainedModel | PeftModel, trained: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a model or adapter folder with the weights `trained`, named as in the scorer (`model.…`)."""
    names = {name.removeprefix("model."): tensor for name, tensor in trained.items()}
    whole = (
        {name: names.get(name, tensor) for name, tensor in policy.state_dict().items()}
        if not isinstance(policy, PeftModel)
        else names
    )
    if isinstance(policy, PeftModel):
        _name_base_wholly(policy)
    policy.save_pretrained(folder, state_dict=whole)


def _name_base_wholly(policy: PeftModel) -> None:
    """Have the adapter name a base in a folder by its whole path: from elsewhere, a relative one would name another, or a hub's."""
    config = policy.peft_config["default"]
    base = config.base_model_name_or_path
    if base and Path(base).is_dir():
        config.base_model_name_or_path = str(Path(base).resolve())


def _all_lines(problem: BaseException) -> str:
    """An error of several lines on one. PyTorch says on the first that there is one, and what it is on those after it."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines)[:MOST_CHARACTERS] or type(problem).__name__


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
