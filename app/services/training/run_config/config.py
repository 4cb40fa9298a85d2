# Written by `make run-config` from worker/dpo/ground/config.py: change it there.
"""Every setting of a training run, in one frozen model: the only place for defaults, bounds, choices and meanings.

It needs pydantic, PyYAML and the standard library, no more: what starts runs checks settings by a copy of this module
and of the two beside it, `values` and `losses`, and so says the same as the engine, word for word.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from app.services.training.run_config.losses import LOSSES, OPTION_NAMES, SFT, TERMS, components, option_problems, read_loss
from app.services.training.run_config.values import (
    MOST_PROBLEMS,
    ConfigError,
    Problem,
    Setting,
    describe,
    nearest,
    one_line,
    read_modules,
    read_threads,
    shown,
)

MOST_STEPS = 10_000_000
METRICS = (
    "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_rewards/chosen", "eval_rewards/rejected",
    "eval_rewards/accuracies_low", "eval_rewards/accuracies_high", "eval_logps/chosen", "eval_logps/rejected", "eval_kl",
)  # fmt: skip


def _setting(default: Any, meaning: str, *, empty: str = "", **more: Any) -> Any:
    """A field with its meaning. empty: what None stands for. more: bounds, and `choices` or `takes` of a text."""
    extra = {"empty": empty} | {key: more.pop(key) for key in ("choices", "takes") if key in more}
    return Field(default, description=meaning, json_schema_extra=extra, **more)


class TrainConfig(BaseModel):
    """Settings of one run. Make it with `from_mapping`, whose errors are for people."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    # Loss
    loss_type: str | list[Any] = _setting(
        "sigmoid", "What is minimised: a loss, or a list of [loss, weight]. DPO's own is the sigmoid.",
        choices=list(LOSSES),
    )  # fmt: skip
    beta: float | None = _setting(
        None, "How strongly the model is held to the reference: higher stays closer.",
        empty="the loss's own, 0.1 for DPO", gt=0, le=100,
    )  # fmt: skip
    label_smoothing: float | None = _setting(
        None, "How probable it is that a judgment is the wrong way round.",
        empty="the loss's own, 0 for DPO", ge=0, lt=0.5,
    )  # fmt: skip
    gamma: float | None = _setting(
        None, "Target reward margin of SimPO.", empty="the loss's own, 0.5 for SimPO", ge=0, le=100
    )
    sft_weight: float = _setting(0.0, "Weight of an added likelihood term on the chosen answer.", ge=0, le=100)
    use_soft_labels: bool = _setting(
        True, "Let disagreement between evaluators (p_chosen) into the loss instead of the majority alone."
    )
    # Optimisation
    learning_rate: float | None = _setting(
        None, "Peak rate of AdamW.", empty="5e-6 for LoRA, 5e-7 for full fine-tuning", ge=0, le=1
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = _setting(
        "cosine", "The rate's shape after the warm-up."
    )
    warmup_ratio: float = _setting(0.1, "Share of the steps in which the rate rises.", ge=0, le=1)
    weight_decay: float = _setting(0.0, "AdamW's weight decay.", ge=0, le=10)
    adam_beta1: float = _setting(0.9, "Decay of the gradient's running mean (AdamW's β₁).", ge=0, lt=1)
    adam_beta2: float = _setting(0.999, "Decay of the running mean of its square (AdamW's β₂).", ge=0, lt=1)
    adam_epsilon: float = _setting(1e-8, "Keeps AdamW's division from blowing up (its ε).", gt=0, le=1)
    max_grad_norm: float = _setting(1.0, "Largest gradient norm, by clipping; 0: not clipped.", ge=0, le=1_000_000)
    num_train_epochs: float = _setting(1.0, "Passes over the training pairs.", ge=0, le=1000)
    max_steps: int = _setting(-1, "Optimizer steps; -1: as many as the epochs give.", ge=-1, le=MOST_STEPS)
    batch_size: int = _setting(16, "Pairs that each optimizer step learns from, over all processes.", ge=1, le=65_536)
    # Data
    max_length: int | None = _setting(
        None, "Tokens of the prompt and one answer; a longer prompt loses its beginning.",
        empty="from the data and the model", ge=2, le=10_000_000,
    )  # fmt: skip
    pair_order: Literal["position", "content"] = _setting(
        "content", "What an epoch's order is drawn from: each pair's content, so that the others' order doesn't hang on a "
        "pair more or less, or its place in the file, as the first releases did.",
    )  # fmt: skip
    # Adapter
    lora_r: int = _setting(16, "Size of the adapter (LoRA's rank); 0 trains every weight of the model.", ge=0, le=4096)
    lora_alpha: float = _setting(32.0, "Scale of the adapter, divided by the rank.", ge=0, le=100_000)
    lora_dropout: float = _setting(0.0, "Dropout before the adapter's matrices.", ge=0, lt=1)
    lora_target_modules: str | list[str] = _setting(
        "all-linear", "Names of modules, separated by commas, or all-linear.", takes="all-linear or names of modules"
    )
    use_rslora: bool = _setting(False, "Scale by alpha/√rank instead of alpha/rank.")
    use_dora: bool = _setting(False, "Decompose the weights into direction and size (DoRA).")
    adapter: str | None = _setting(
        None, "Folder of an adapter to train on from; the reference is the model with it.",
        empty="a new one", max_length=2000,
    )  # fmt: skip
    load_in_4bit: bool = _setting(False, "Hold the base weights in 4 bits (QLoRA); needs an NVIDIA GPU.")
    # Numbers and machine
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = _setting(
        "auto", "Number type of the base weights; auto: bfloat16 where this machine is fast at it, else float32."
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = _setting(
        "no", "Number type of the forward pass over float32 weights (autocast)."
    )
    device: str = _setting(
        "auto", "What to compute on: auto, cpu, cuda, cuda:N or mps.",
        takes="auto, cpu, cuda, cuda:N or mps", pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
    )  # fmt: skip
    threads: str = _setting(
        "auto", "Threads that compute on a CPU; auto: as many as help beside what else runs.",
        takes='auto, a number from 1 to 1,024, or what a run recorded, such as "2, 1@14"',
    )  # fmt: skip
    seed: int = _setting(
        42, "Fixes the order of the pairs, the adapter's start, dropout and the samples.", ge=0, le=2**31 - 1
    )
    token_budget: int | None = _setting(
        None, "Tokens in one forward pass.", empty="from the memory at hand", ge=1, le=100_000_000
    )
    head_chunk_mb: float = _setting(64.0, "Size of one block of logits, in MB.", ge=0.01, le=100_000)
    gradient_checkpointing: Literal["auto", "on", "off"] = _setting(
        "auto", "Trade time for memory; auto: only when memory asks for it."
    )
    share_prefix: Literal["auto", "off"] = _setting(
        "auto", "Compute a prompt once for both answers; auto: where the model allows it."
    )
    compile: Literal["auto", "on", "off"] = _setting(
        "auto", "Compile the model's layers for the GPU; auto: where the run is long enough to repay the wait."
    )
    reference_cache: str | None = _setting(
        None, "Folder of reference log-probabilities.", empty="~/.cache/prefloop", max_length=2000
    )
    # Evaluation, saving, reporting
    eval_steps: int | None = _setting(
        None, "Steps between evaluations.", empty="five times in a run", ge=1, le=MOST_STEPS
    )
    early_stopping_patience: int = _setting(
        0, "Evaluations without improvement before it stops; 0: never.", ge=0, le=10_000
    )
    metric_for_best_model: str = _setting(
        "eval_loss", "The metric that picks the best step: lowest for a loss and eval_kl, else highest.",
        choices=list(METRICS), takes=f"one of {', '.join(METRICS)}, or eval_loss/NAME of a loss in a sum",
    )  # fmt: skip
    publish: Literal["auto", "last", "best"] = _setting(
        "auto", "Which weights the checkpoint holds; auto: the best with early stopping, else the last."
    )
    save_steps: int | None = _setting(
        None, "Steps between training states.", empty="by time alone", ge=1, le=MOST_STEPS
    )
    save_minutes: float = _setting(10.0, "Minutes between training states; 0: never by time.", ge=0, le=10_000)
    sample_prompts: int = _setting(8, "Evaluation prompts answered before and after; 0: none.", ge=0, le=64)
    sample_tokens: int = _setting(64, "Longest sampled answer, in tokens.", ge=1, le=4096)
    report_to: list[Literal["tensorboard", "mlflow", "wandb", "none"]] = _setting(
        ["tensorboard"], "Trackers that also get the metrics.", max_length=4
    )
    num_workers: int | None = _setting(None, "Processes that tokenise.", empty="by the cores", ge=0, le=1024)

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        value = SETTINGS[name].read(value)
        return OWN_WAYS[name](value) if name in OWN_WAYS else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        options = {name: getattr(self, name) for name in OPTION_NAMES}
        problems = [*option_problems(self.loss_type, options, sft_weight=self.sft_weight), *self._contradictions()]
        if problems:
            raise ConfigError(*problems)
        return self

    def _contradictions(self) -> list[Problem]:
        rules = (
            (
                self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0),
                "max_steps", "There would be nothing to train.",
                "Set 'max_steps' to 1 or more, or 'num_train_epochs' above 0.",
            ),
            (
                self.dtype == "float16" and not self.is_lora,
                "dtype", "Full fine-tuning in float16 loses small steps.",
                "Set 'dtype' to bfloat16, or to float32 with 'mixed_precision' at fp16.",
            ),
            (
                self.load_in_4bit and not self.is_lora,
                "load_in_4bit", "4-bit weights can't be trained themselves.",
                "Set 'lora_r' to 1 or more, or 'load_in_4bit' to false.",
            ),
            (
                self.lora_r == 0 and self.use_dora,
                "use_dora", "DoRA belongs to LoRA.", "Set 'lora_r' to 1 or more, or 'use_dora' to false.",
            ),
            (
                self.lora_r == 0 and self.use_rslora,
                "use_rslora", "rsLoRA belongs to LoRA.", "Set 'lora_r' to 1 or more, or 'use_rslora' to false.",
            ),
            (
                self.mixed_precision != "no" and self.dtype not in ("auto", "float32"),
                "mixed_precision", "Autocast works on float32 weights.",
                "Leave 'dtype' at auto or float32, or 'mixed_precision' at no.",
            ),
            (
                self.metric_for_best_model not in self._metrics(),
                "metric_for_best_model", f"This run has no metric {shown(self.metric_for_best_model)}.",
                f"It has {', '.join(self._metrics())}.",
            ),
        )  # fmt: skip
        return [Problem(*problem) for broken, *problem in rules if broken]

    def _metrics(self) -> list[str]:
        """What an evaluation of this run measures."""
        terms = [name for name, _ in components(self.loss_type)] + ([SFT] if self.sft_weight else [])
        has_reference = any(TERMS[name].uses_reference for name in terms)
        parts = [f"eval_loss/{name}" for name in terms] if len(terms) > 1 else []
        return [name for name in METRICS if has_reference or name != "eval_kl"] + parts

    @property
    def is_lora(self) -> bool:
        return self.lora_r > 0 or self.adapter is not None

    @property
    def peak_learning_rate(self) -> float:
        """Full fine-tuning moves every weight and takes about a tenth of LoRA's rate."""
        return self.learning_rate if self.learning_rate is not None else (5e-6 if self.is_lora else 5e-7)

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump()


OWN_WAYS = {"loss_type": read_loss, "lora_target_modules": read_modules, "threads": read_threads}
SETTINGS: dict[str, Setting] = {name: describe(name, field) for name, field in TrainConfig.model_fields.items()}


def from_mapping(values: Mapping[Any, Any]) -> TrainConfig:
    """A checked TrainConfig from plain values. Raises ConfigError that names every setting at fault."""
    unknown = [one_line(str(key)) for key in values if key not in SETTINGS][:MOST_PROBLEMS]
    problems = [Problem(key, f"There is no setting {shown(key)}.", nearest(key, SETTINGS)) for key in unknown]
    known = {key: value for key, value in values.items() if key in SETTINGS}
    try:
        config = TrainConfig.model_validate(known)
    except ValidationError as error:
        raise ConfigError(*problems, *_problems(error, known)) from None
    if problems:
        raise ConfigError(*problems)
    return config


def _problems(error: ValidationError, values: Mapping[str, Any]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for item in error.errors(include_url=False, include_input=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            problems |= {problem.setting: problem for problem in cause.problems}
        else:
            name = str(item["loc"][0])
            problems.setdefault(name, SETTINGS[name].refusal(values[name]))
    return list(problems.values())


def settings_table() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, for `--help` and the documentation."""
    return [
        (
            setting.name,
            "" if setting.default is None else json.dumps(setting.default),
            setting.meaning + (f" Empty: {setting.empty}." if setting.empty else ""),
        )
        for setting in SETTINGS.values()
    ]
