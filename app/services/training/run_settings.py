"""What a training run can be told: one table, from which forms, commands and checks are made. Needs no torch.

Keys, defaults and ranges are the engine's own (`worker/dpo/ground/config.py`); a test holds the two together.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any

from app.errors import Invalid


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of the engine, the options that it uses, and what it is good for."""

    name: str
    label: str
    options: frozenset[str] = frozenset({"beta"})
    default_beta: float = 0.1
    uses_reference: bool = True


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("sigmoid", "DPO", frozenset({"beta", "label_smoothing"})),
        Loss("sigmoid_norm", "DPO, length-normalised", default_beta=5.0),
        Loss("robust", "Robust DPO (noisy labels)", frozenset({"beta", "label_smoothing"})),
        Loss("hinge", "Hinge (SLiC)"),
        Loss("ipo", "IPO, per-token means"),
        Loss("ipo_sum", "IPO, as first published"),
        Loss("apo_zero", "APO zero"),
        Loss("apo_down", "APO down"),
        Loss("sppo_hard", "SPPO", default_beta=0.001),
        Loss("nca_pair", "NCA"),
        Loss("exo_pair", "EXO", frozenset({"beta", "label_smoothing"})),
        Loss("bco_pair", "BCO"),
        Loss("bco_pair_shifted", "BCO with a running mean"),
        Loss(
            "simpo", "SimPO (no reference)", frozenset({"beta", "gamma", "label_smoothing"}), 2.0, uses_reference=False
        ),
        Loss("orpo", "ORPO (no reference)", uses_reference=False),
    )
}
LOSS_OPTIONS = ("beta", "label_smoothing", "gamma")


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a run. `kind` is its type; a default of None lets the engine choose (`auto` says how it does)."""

    key: str
    kind: type
    default: Any
    group: str
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    auto: str = ""
    advanced: bool = True


OPTIONS: tuple[Option, ...] = (
    Option("loss_type", str, "sigmoid", "Loss", "Loss", "What is minimised; DPO's own is the sigmoid.",
           choices=tuple(LOSSES), advanced=False),
    Option("beta", float, None, "Loss", "β", "How strongly the model is held to the reference: higher stays closer.", 0,
           100,
           auto="the loss's own: 0.1 for DPO", advanced=False),
    Option("label_smoothing", float, None, "Loss", "Label smoothing",
           "How probable it is that a judgment is the wrong way round.", 0, 0.5, auto="the loss's own: 0 for DPO"),
    Option("gamma", float, None, "Loss", "γ", "Target reward margin of SimPO.", 0, 100, auto="the loss's own"),
    Option("sft_weight", float, 0.0, "Loss", "SFT weight", "Weight of an added likelihood term on the chosen answer.",
           0, 100),
    Option("use_soft_labels", bool, True, "Loss", "Soft labels",
           "Let disagreement between evaluators into the loss instead of the majority alone."),
    Option("learning_rate", float, None, "Optimisation", "Learning rate", "Peak rate of AdamW.", 0, 1,
           auto="5e-6 for LoRA, 5e-7 for full fine-tuning", advanced=False),
    Option("num_train_epochs", float, 1.0, "Optimisation", "Epochs", "Passes over the training pairs.", 0, 1000,
           advanced=False),
    Option("max_steps", int, -1, "Optimisation", "Most steps", "Optimizer steps; -1: as many as the epochs give.", -1,
           10_000_000),
    Option("batch_size", int, 16, "Optimisation", "Batch size", "Pairs that each optimizer step learns from.", 1,
           65_536, unit="pairs", advanced=False),
    Option("lr_scheduler_type", str, "cosine", "Optimisation", "Schedule", "How the rate falls after the warm-up.",
           choices=("cosine", "linear", "constant")),
    Option("warmup_ratio", float, 0.1, "Optimisation", "Warm-up", "Share of the steps in which the rate rises.", 0, 1),
    Option("weight_decay", float, 0.0, "Optimisation", "Weight decay", "AdamW's weight decay.", 0, 10),
    Option("adam_beta1", float, 0.9, "Optimisation", "AdamW β₁", "Decay of the gradient's running mean.", 0, 1),
    Option("adam_beta2", float, 0.999, "Optimisation", "AdamW β₂", "Decay of the running mean of its square.", 0, 1),
    Option("adam_epsilon", float, 1e-8, "Optimisation", "AdamW ε", "Keeps the division from blowing up.", 0, 1),
    Option("max_grad_norm", float, 1.0, "Optimisation", "Gradient clipping", "Largest gradient norm; 0: not clipped.",
           0, 1e6),
    Option("max_length", int, None, "Data", "Longest pair",
           "Tokens of the prompt and one answer; longer prompts lose their beginning.", 2, 10_000_000,
           unit="tokens", auto="from the data and the model"),
    Option("lora_r", int, 16, "Adapter", "LoRA rank", "Size of the adapter; 0 trains every weight of the model.", 0,
           4096, advanced=False),
    Option("lora_alpha", float, 32.0, "Adapter", "LoRA alpha", "Scale of the adapter, divided by the rank.", 0,
           100_000),
    Option("lora_dropout", float, 0.0, "Adapter", "LoRA dropout", "Dropout before the adapter's matrices.", 0, 0.99),
    Option("lora_target_modules", str, "all-linear", "Adapter", "LoRA targets",
           "Names of modules, separated by commas, or all-linear."),
    Option("use_rslora", bool, False, "Adapter", "rsLoRA", "Scale by alpha/√rank instead of alpha/rank."),
    Option("use_dora", bool, False, "Adapter", "DoRA", "Decompose the weights into direction and size."),
    Option("load_in_4bit", bool, False, "Adapter", "4-bit base (QLoRA)",
           "Hold the base weights in 4 bits; needs an NVIDIA GPU."),
    Option("dtype", str, "float32", "Numbers", "Weights in", "Number type of the base weights.",
           choices=("float32", "bfloat16", "float16", "float64")),
    Option("mixed_precision", str, "no", "Numbers", "Autocast", "Number type of the forward pass over float32 weights.",
           choices=("no", "bf16", "fp16")),
    Option("seed", int, 42, "Numbers", "Seed", "Fixes the order of the pairs, the adapter's start and the samples.", 0,
           2**31 - 1),
    Option("token_budget", int, None, "Memory", "Token budget", "Tokens in one forward pass.", 1, 100_000_000,
           unit="tokens", auto="from the memory at hand"),
    Option("head_chunk_mb", float, 64.0, "Memory", "Logits block", "Size of one block of logits.", 0.01, 100_000,
           unit="MB"),
    Option("gradient_checkpointing", str, "auto", "Memory", "Gradient checkpointing",
           "Trade time for memory; auto: only when memory asks for it.", choices=("auto", "on", "off")),
    Option("share_prefix", str, "auto", "Memory", "Share prompts",
           "Compute a prompt once for both answers where the model allows it.", choices=("auto", "off")),
    Option("eval_steps", int, None, "Evaluation", "Evaluate every", "Steps between evaluations.", 1, 10_000_000,
           unit="steps", auto="five times in a run"),
    Option("early_stopping_patience", int, 0, "Evaluation", "Early stopping",
           "Evaluations without improvement before it stops; 0: never.", 0, 10_000),
    Option("metric_for_best_model", str, "eval_loss", "Evaluation", "Best means",
           "The metric that picks the best step.",
           choices=("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins")),
    Option("publish", str, "auto", "Evaluation", "Keep",
           "Which weights the checkpoint holds; auto: the best with early stopping, else the last.",
           choices=("auto", "last", "best")),
    Option("sample_prompts", int, 2, "Evaluation", "Sampled prompts",
           "Evaluation prompts answered before and after; 0: none.", 0, 64),
    Option("sample_tokens", int, 64, "Evaluation", "Sample length", "Longest sampled answer.", 1, 4096, unit="tokens"),
    Option("save_steps", int, None, "Saving", "Save every", "Steps between training states.", 1, 10_000_000,
           unit="steps", auto="by time alone"),
    Option("save_minutes", float, 10.0, "Saving", "Save every", "Minutes between training states; 0: never by time.", 0,
           10_000, unit="minutes"),
    Option("report_to", list, ["tensorboard"], "Saving", "Report to", "Trackers that also get the metrics.",
           choices=("tensorboard", "mlflow", "wandb")),
)  # fmt: skip
BY_KEY = {option.key: option for option in OPTIONS}
GROUPS = tuple(dict.fromkeys(option.group for option in OPTIONS))

# They name folders and devices of a machine: the worker's to choose, never a request's.
WORKER_KEYS = frozenset({"adapter", "device", "num_workers", "reference_cache"})


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration, checked: what was given over the defaults, without what the engine is to choose.

    Text that a form sends is converted. Raises Invalid that names the setting, its value and what it may be.
    """
    checked = {option.key: option.default for option in OPTIONS}
    for key, value in config.items():
        checked[key] = _checked(_known(key), value)
    _check_together(checked)
    return {key: value for key, value in checked.items() if value is not None}


def _known(key: str) -> Option:
    if key in WORKER_KEYS:
        raise Invalid(f"The setting '{key}' is the worker's own.", "Leave it out.", setting=key)
    if key not in BY_KEY:
        near = difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0.5)
        raise Invalid(f"There is no setting '{key}'.", f"Did you mean '{near[0]}'?" if near else "", setting=key)
    return BY_KEY[key]


def _checked(option: Option, value: Any) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return option.default
    if option.key == "loss_type" and isinstance(value, list):
        return _mixed_loss(value)
    if option.key == "lora_target_modules" and isinstance(value, list):
        value = ",".join(map(str, value))
    converted = _converted(option, value)
    if option.kind is list and not set(converted) <= set(option.choices):
        raise _refused(option, value)
    if option.kind is str and option.choices and converted not in option.choices:
        raise _refused(option, value)
    low, high = option.minimum, option.maximum
    if (low is not None and converted < low) or (high is not None and converted > high):
        raise _refused(option, value)
    if option.key == "lora_target_modules" and converted != "all-linear":
        return [name.strip() for name in converted.split(",") if name.strip()]
    return converted


def _converted(option: Option, value: Any) -> Any:
    if option.kind is bool:
        truth = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
        found = value if isinstance(value, bool) else truth.get(str(value).strip().lower())
        if found is None:
            raise _refused(option, value)
        return found
    if option.kind in (int, float):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or (option.kind is int and not number.is_integer()):
            raise _refused(option, value)
        return option.kind(number)
    if option.kind is list:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)
    if not isinstance(value, str) or len(value) > 2000:
        raise _refused(option, value)
    return value.strip()


def _mixed_loss(value: list[Any]) -> list[Any]:
    """A sum of losses: [[loss, weight], …]."""
    terms = []
    for term in value:
        if not (
            isinstance(term, list | tuple)
            and len(term) == 2
            and term[0] in (*LOSSES, "sft")
            and isinstance(term[1], int | float)
            and 0 < term[1] < 1e6
        ):
            raise Invalid(
                f"A sum of losses is a list of [loss, weight], not {value!r}.",
                f"Losses: {', '.join(LOSSES)}, sft.",
                setting="loss_type",
            )
        terms.append([term[0], float(term[1])])
    if not any(name in LOSSES for name, _ in terms):
        raise Invalid(
            "A sum of losses needs one that learns from preferences.",
            f"One of {', '.join(LOSSES)}.",
            setting="loss_type",
        )
    return terms


def _check_together(config: dict[str, Any]) -> None:
    loss = config["loss_type"]
    names = [loss] if isinstance(loss, str) else [name for name, _ in loss]
    used = frozenset().union(*(LOSSES[name].options for name in names if name in LOSSES))
    for name in LOSS_OPTIONS:
        if config[name] is not None and name not in used:
            takers = ", ".join(loss.name for loss in LOSSES.values() if name in loss.options)
            raise Invalid(
                f"The loss {' + '.join(names)} does not use '{name}'.",
                f"Leave it empty, or take one of {takers}.",
                setting=name,
            )
    if config["sft_weight"] and ("orpo" in names or "sft" in names):
        raise Invalid("This loss has an SFT term already.", "Leave 'sft_weight' at 0.", setting="sft_weight")
    if config["max_steps"] == 0 or (config["max_steps"] < 0 and config["num_train_epochs"] == 0):
        raise Invalid(
            "There would be nothing to train.",
            "Set 'max_steps' to 1 or more, or 'num_train_epochs' above 0.",
            setting="max_steps",
        )
    if config["lora_r"] == 0 and (config["use_dora"] or config["use_rslora"] or config["load_in_4bit"]):
        raise Invalid(
            "rsLoRA, DoRA and 4-bit weights belong to LoRA.",
            "Set 'lora_r' to 1 or more, or switch them off.",
            setting="lora_r",
        )
    if config["mixed_precision"] != "no" and config["dtype"] != "float32":
        raise Invalid(
            "Autocast works on float32 weights.",
            "Leave 'dtype' at float32, or 'mixed_precision' at no.",
            setting="mixed_precision",
        )


def _refused(option: Option, value: Any) -> Invalid:
    if option.choices:
        allowed = f"one of {', '.join(option.choices)}"
    elif option.kind is bool:
        allowed = "true or false"
    elif option.kind in (int, float):
        noun = "a whole number" if option.kind is int else "a number"
        allowed = f"{noun} from {option.minimum:g} to {option.maximum:g}"
    else:
        allowed = "text"
    return Invalid(f"The setting '{option.key}' can't be {value!r}.", f"It takes {allowed}.", setting=option.key)
