"""Every setting of a training run, in one frozen dataclass: the only place where defaults live."""

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from worker.dpo.ground.errors import BadSetting


class ConfigError(BadSetting):
    """A setting that doesn't exist, has the wrong type or contradicts another one."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of one run. The comment beside a field is its line in the table of `docs/engine.md`."""

    # Loss
    loss_type: str | list = field(default="sigmoid", metadata={"help": "a loss, or a list of [loss, weight]"})
    beta: float | None = field(
        default=None,
        metadata={"help": "strength of the pull to the reference; empty: the loss's own default (0.1 for DPO)"},
    )
    label_smoothing: float | None = field(
        default=None, metadata={"help": "probability that a label is wrong (cDPO, robust, EXO)"}
    )
    gamma: float | None = field(default=None, metadata={"help": "target reward margin (SimPO)"})
    sft_weight: float = field(default=0.0, metadata={"help": "weight of an added SFT term on the chosen answer"})
    use_soft_labels: bool = field(default=True, metadata={"help": "use the `p_chosen` column where the loss can"})
    # Optimisation
    learning_rate: float | None = field(
        default=None, metadata={"help": "peak rate; empty: 5e-6 for LoRA, 5e-7 for full fine-tuning"}
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "shape after the warm-up"}
    )
    warmup_ratio: float = field(default=0.1, metadata={"help": "share of the steps in which the rate rises"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW weight decay"})
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW β1"})
    adam_beta2: float = field(default=0.999, metadata={"help": "AdamW β2"})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "AdamW ε"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient norm is clipped to this; 0: not clipped"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the training pairs"})
    max_steps: int = field(default=-1, metadata={"help": "optimizer steps; -1: from the epochs"})
    batch_size: int = field(default=16, metadata={"help": "pairs per optimizer step, over all processes"})
    # Data
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of prompt and one completion; empty: from the data and the model"}
    )
    # Adapter
    lora_r: int = field(default=16, metadata={"help": "LoRA rank; 0: full fine-tuning"})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA scale times rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout before the LoRA matrices"})
    lora_target_modules: str | list = field(default="all-linear", metadata={"help": "module names, or all-linear"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha/√r"})
    use_dora: bool = field(default=False, metadata={"help": "weight-decomposed LoRA"})
    adapter: str | None = field(
        default=None, metadata={"help": "existing adapter to train on from; the reference is the model with it"}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: 4-bit base weights (CUDA, bitsandbytes)"})
    # Numbers and machine
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = field(
        default="float32", metadata={"help": "type of the base weights"}
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = field(default="no", metadata={"help": "autocast around forward"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, mps"})
    seed: int = field(default=42, metadata={"help": "order of the pairs, LoRA initialisation, dropout, samples"})
    token_budget: int | None = field(
        default=None, metadata={"help": "tokens in one forward; empty: from the memory at hand"}
    )
    head_chunk_mb: float = field(default=64.0, metadata={"help": "size of one block of logits"})
    gradient_checkpointing: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "auto: on only when memory asks for it"}
    )
    share_prefix: Literal["auto", "off"] = field(
        default="auto", metadata={"help": "compute a prompt once for both answers where the model allows"}
    )
    reference_cache: str | None = field(
        default=None, metadata={"help": "folder of reference log-probabilities; empty: ~/.cache/prefloop"}
    )
    # Evaluation, saving, reporting
    eval_steps: int | None = field(
        default=None, metadata={"help": "evaluate every N steps; empty: five times in a run"}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "evaluations without improvement before stopping; 0: never"}
    )
    metric_for_best_model: str = field(
        default="eval_loss", metadata={"help": "what best means; a loss is better lower, else higher"}
    )
    publish: Literal["auto", "last", "best"] = field(
        default="auto", metadata={"help": "which weights OUT holds; auto: best with early stopping, else last"}
    )
    save_steps: int | None = field(default=None, metadata={"help": "training state every N steps"})
    save_minutes: float = field(default=10.0, metadata={"help": "training state every M minutes; 0: never by time"})
    sample_prompts: int = field(default=2, metadata={"help": "evaluation prompts answered before and after; 0: none"})
    sample_tokens: int = field(default=64, metadata={"help": "longest sampled answer"})
    report_to: list = field(default_factory=lambda: ["tensorboard"], metadata={"help": "tensorboard, mlflow, wandb"})
    num_workers: int | None = field(default=None, metadata={"help": "processes that tokenise; empty: by the cores"})

    def __post_init__(self) -> None:
        _check_ranges(self)

    @property
    def is_lora(self) -> bool:
        return self.lora_r > 0 or self.adapter is not None

    @property
    def peak_learning_rate(self) -> float:
        """Full fine-tuning moves every weight and takes about a tenth of LoRA's rate."""
        return self.learning_rate if self.learning_rate is not None else (5e-6 if self.is_lora else 5e-7)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_config(path: Path | None, settings: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """The configuration of a JSON or YAML file, overridden by `key=value` settings.

    Raises ConfigError for an unknown key (naming the nearest), a wrong type or an impossible value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_read_mapping(path))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, not {setting!r}.")
        values[key.strip()] = _parse_value(text)
    return from_mapping(values)


def from_mapping(values: dict[str, Any]) -> TrainConfig:
    """A checked TrainConfig from plain values. Raises ConfigError."""
    hints = typing.get_type_hints(TrainConfig)
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(_unknown(key, hints))
        checked[key] = _coerce(key, value, hints[key])
    return TrainConfig(**checked)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise ConfigError(f"Cannot read the configuration {path}: {problem}") from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} must be a mapping of settings, not a {type(values).__name__}.")
    return values


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _unknown(key: str, known: dict[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else " See `python -m worker.dpo train --help`."
    return f"There is no setting {key!r}.{hint}"


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """The value as the field's type; numbers given as text (YAML reads 5e-6 as text) become numbers."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        if typing.get_origin(option) is Literal:
            return _coerce_choice(key, value, typing.get_args(option))
        converted = _as_type(value, option)
        if converted is not None:
            return converted
    names = " or ".join(option.__name__ for option in options if option is not types.NoneType)
    raise ConfigError(f"The setting {key!r} takes {names}, not {value!r}.")


def _coerce_choice(key: str, value: Any, choices: tuple[str, ...]) -> str:
    # YAML reads on, off and no as booleans.
    aliases = {True: ("on",), False: ("off", "no")}
    for candidate in (value, *aliases.get(value, ())) if isinstance(value, bool) else (value,):
        if candidate in choices:
            return candidate
    raise ConfigError(f"The setting {key!r} is one of {', '.join(choices)}, not {value!r}.")


def _as_type(value: Any, wanted: type) -> Any:
    if wanted is bool or isinstance(value, bool):
        return value if isinstance(value, bool) and wanted is bool else None
    if wanted in (int, float) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except ValueError:
            return None
        if wanted is float:
            return number
        return int(number) if number.is_integer() else None
    if wanted is list and isinstance(value, list | tuple):
        return list(value)
    return value if isinstance(value, wanted) else None


def _check_ranges(config: TrainConfig) -> None:
    at_least = {
        "batch_size": 1, "lora_r": 0, "lora_dropout": 0, "warmup_ratio": 0, "weight_decay": 0, "max_grad_norm": 0,
        "sft_weight": 0, "early_stopping_patience": 0, "save_minutes": 0, "sample_prompts": 0, "sample_tokens": 1,
        "learning_rate": 0, "max_length": 2, "token_budget": 1, "eval_steps": 1, "save_steps": 1, "head_chunk_mb": 0.01,
        "num_train_epochs": 0,
    }  # fmt: skip
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ConfigError(f"The setting {name!r} must be at least {least}, not {value}.")
    if config.warmup_ratio > 1 or config.lora_dropout >= 1:
        raise ConfigError("The settings 'warmup_ratio' and 'lora_dropout' are shares: between 0 and 1.")
    if config.max_steps == 0 or config.max_steps < -1 or (config.max_steps == -1 and config.num_train_epochs == 0):
        raise ConfigError("Nothing to train: set 'max_steps' to 1 or more, or 'num_train_epochs' above 0.")
    if config.dtype == "float16" and not config.is_lora:
        raise ConfigError(
            "Full fine-tuning in float16 loses small steps: use dtype=bfloat16, or mixed_precision=fp16 on float32."
        )
    if config.load_in_4bit and not config.is_lora:
        raise ConfigError(
            "4-bit weights can't be trained themselves: set 'lora_r' to 1 or more, or 'load_in_4bit' to false."
        )
    if config.lora_r == 0 and (config.use_dora or config.use_rslora):
        raise ConfigError("'use_dora' and 'use_rslora' belong to LoRA: set 'lora_r' to 1 or more.")
    if config.mixed_precision != "no" and config.dtype != "float32":
        raise ConfigError(
            "Autocast ('mixed_precision') works on float32 weights: leave 'dtype' at float32, or autocast off."
        )


def settings_table() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, for `--help` and the documentation."""
    defaults = TrainConfig()
    rows = []
    for item in fields(TrainConfig):
        default = getattr(defaults, item.name)
        rows.append((item.name, "" if default is None else json.dumps(default), item.metadata["help"]))
    return rows
