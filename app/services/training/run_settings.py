"""The settings of a training run as the app shows and takes them: labels and groups for the engine's own.

Defaults, bounds, choices, meanings and rules are the engine's (`run_config`, a copy of its modules).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import Invalid, PrefloopError
from app.models import Worker
from app.services.training.run_config.config import SETTINGS, from_mapping
from app.services.training.run_config.number_type import choose
from app.services.training.run_config.values import ConfigError, Problem, Setting, parse_settings

LOSS_LABELS = {
    "sigmoid": "DPO",
    "sigmoid_norm": "DPO, length-normalised",
    "robust": "Robust DPO (noisy labels)",
    "hinge": "Hinge (SLiC)",
    "ipo": "IPO, per-token means",
    "ipo_sum": "IPO, as first published",
    "apo_zero": "APO zero",
    "apo_down": "APO down",
    "sppo_hard": "SPPO",
    "nca_pair": "NCA",
    "exo_pair": "EXO",
    "bco_pair": "BCO",
    "bco_pair_shifted": "BCO with a running mean",
    "simpo": "SimPO (no reference)",
    "orpo": "ORPO (no reference)",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a run as people see it."""

    setting: Setting
    group: str
    label: str
    unit: str = ""

    @property
    def key(self) -> str:
        return self.setting.name

    @property
    def default(self) -> Any:
        return self.setting.default

    def in_words(self, value: Any) -> str | None:
        """What a value means that stands for something else, such as -1 for "no limit"; None for all others."""
        return _IN_WORDS.get((self.key, value)) if isinstance(value, int) else None


_IN_WORDS = {("max_steps", -1): "as many as the epochs give"}

# (setting, label, unit) by group, in the order of the form.
_GROUPS: dict[str, tuple[tuple[str, str] | tuple[str, str, str], ...]] = {
    "Loss": (
        ("loss_type", "Loss"),
        ("beta", "β"),
        ("label_smoothing", "Label smoothing"),
        ("gamma", "γ"),
        ("sft_weight", "SFT weight"),
        ("use_soft_labels", "Soft labels"),
    ),
    "Optimisation": (
        ("learning_rate", "Learning rate"),
        ("num_train_epochs", "Epochs"),
        ("max_steps", "Most steps"),
        ("batch_size", "Batch size", "pairs"),
        ("lr_scheduler_type", "Schedule"),
        ("warmup_ratio", "Warm-up"),
        ("weight_decay", "Weight decay"),
        ("adam_beta1", "AdamW β₁"),
        ("adam_beta2", "AdamW β₂"),
        ("adam_epsilon", "AdamW ε"),
        ("max_grad_norm", "Gradient clipping"),
    ),
    "Data": (("max_length", "Longest pair", "tokens"), ("pair_order", "Order of pairs")),
    "Adapter": (
        ("lora_r", "LoRA rank"),
        ("lora_alpha", "LoRA alpha"),
        ("lora_dropout", "LoRA dropout"),
        ("lora_target_modules", "LoRA targets"),
        ("use_rslora", "rsLoRA"),
        ("use_dora", "DoRA"),
        ("load_in_4bit", "4-bit base (QLoRA)"),
    ),
    "Numbers": (("dtype", "Weights in"), ("mixed_precision", "Autocast"), ("threads", "Threads"), ("seed", "Seed")),
    "Memory": (
        ("token_budget", "Token budget", "tokens"),
        ("head_chunk_mb", "Logits block", "MB"),
        ("gradient_checkpointing", "Gradient checkpointing"),
        ("share_prefix", "Share prompts"),
        ("compile", "Compile layers"),
    ),
    "Evaluation": (
        ("eval_steps", "Evaluate every", "steps"),
        ("early_stopping_patience", "Early stopping"),
        ("metric_for_best_model", "Best means"),
        ("publish", "Keep"),
        ("sample_prompts", "Sampled prompts"),
        ("sample_tokens", "Sample length", "tokens"),
    ),
    "Saving": (
        ("save_steps", "Save by steps", "steps"),
        ("save_minutes", "Save by time", "minutes"),
        ("report_to", "Report to"),
    ),
}
GROUPS = tuple(_GROUPS)
OPTIONS = tuple(Option(SETTINGS[key], group, *shown) for group, rows in _GROUPS.items() for key, *shown in rows)
BY_KEY = {option.key: option for option in OPTIONS}

# They name folders, devices and cores of a machine: the worker's to choose, never a request's.
WORKER_KEYS = frozenset({"adapter", "device", "num_workers", "reference_cache"})

FIELD = "body.config."  # where a request to the API has a setting


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration, checked: what was given over the defaults, without what the engine is to choose.

    Raises Invalid, whose `errors` name each setting at fault.
    """
    theirs = [
        Problem(key, f"The setting '{key}' is the worker's own.", "Leave it out.")
        for key in config
        if key in WORKER_KEYS
    ]
    try:
        checked = from_mapping({key: value for key, value in config.items() if key not in WORKER_KEYS}).as_dict()
    except ConfigError as error:
        raise _invalid(*theirs, *error.problems) from None
    if theirs:
        raise _invalid(*theirs)
    return {key: value for key, value in checked.items() if value is not None and key not in WORKER_KEYS}


def slow_on(config: Mapping[str, Any], living: Iterable[Worker]) -> str:
    """Why a checked configuration would be slow on workers that measured their products; empty where it wouldn't be on any."""
    asked = from_mapping(config)
    warnings = {worker.name: choose(asked, worker.product_gflops).warning for worker in living}
    slow = {name: warning for name, warning in warnings.items() if warning}
    if not slow:
        return ""
    everywhere = len(slow) == len(warnings) and len(set(slow.values())) == 1
    if everywhere:
        return next(iter(slow.values()))
    return " ".join(f"Worker {name}: {warning}" for name, warning in slow.items())


def parse(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of a command line as a configuration, not yet checked. Raises Invalid."""
    try:
        return parse_settings(words)
    except ConfigError as error:
        raise _invalid(*error.problems) from None


def problems_of(error: PrefloopError) -> dict[str, str]:
    """What is wrong with each setting, of an Invalid that `validate` raised; empty for any other error."""
    problems = error.details.get("errors")
    fields = problems if isinstance(problems, list) else []
    return {field["field"].removeprefix(FIELD): field["message"] for field in fields}


def refuse(key: str, what: str, next_step: str) -> Invalid:
    """The error for one setting that can't be what was asked for, where its own bounds don't say so."""
    return _invalid(Problem(key, what, next_step))


def _invalid(*problems: Problem) -> Invalid:
    errors = [{"field": FIELD + problem.setting, "message": str(problem)} for problem in problems]
    if len(problems) == 1:
        return Invalid(problems[0].what, problems[0].next_step, setting=problems[0].setting, errors=errors)
    return Invalid(" ".join(map(str, problems)), setting=problems[0].setting, errors=errors)
