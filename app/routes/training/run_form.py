"""The form of a new run: presets, its fields made from the table of settings, and what people typed into it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import Invalid
from app.services.training import run_settings
from app.services.training.run_settings import LOSSES, Option

SETTING = "config."
RULE = "rule."
RULE_BOXES = ("soft_labels", "include_late", "include_flagged")
RULE_HELP = {
    "min_judgments": "Judgments that a comparison needs before it counts; skips don't.",
    "weights": "Pairs that were clearly better may weigh more than pairs that were slightly better.",
    "soft_labels": "Train towards the share of evaluators who chose the answer, not the majority alone.",
    "include_late": "Count judgments that came after their lease had passed to somebody else.",
    "include_flagged": "Keep pairs that an evaluator flagged as unfit.",
}


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings for a purpose; what the form's fields say goes before them."""

    name: str
    title: str
    text: str
    settings: dict[str, Any]

    @property
    def summary(self) -> str:
        return " · ".join(f"{run_settings.BY_KEY[key].label} {value:g}" for key, value in self.settings.items())


PRESETS = (
    Preset("standard", "Standard", "One pass with a LoRA adapter and the defaults of the literature.", {}),
    Preset(
        "few",
        "Few pairs",
        "Three passes in small batches, for some hundred pairs or fewer.",
        {"num_train_epochs": 3, "batch_size": 8, "learning_rate": 2e-5},
    ),
    Preset(
        "trial",
        "Trial",
        "Ten steps, to see whether model, data and worker get along.",
        {"max_steps": 10, "batch_size": 8},
    ),
    Preset(
        "full",
        "Full fine-tuning",
        "Every weight of the model instead of an adapter: more memory, larger files.",
        {"lora_r": 0, "learning_rate": 5e-7},
    ),
)


FEW_PAIRS = 300  # below, one pass in batches of 16 is under 20 steps: too few for a rate of 5e-6 to show


def preset_for(train_pairs: int) -> str:
    """The preset that a form opens with."""
    return "few" if train_pairs < FEW_PAIRS else "standard"


@dataclass(frozen=True, slots=True)
class Input:
    """One setting as a field. `kind`: number, select or text; `placeholder`: what an empty field means."""

    key: str
    label: str
    help: str
    kind: str
    value: str
    placeholder: str
    options: list[tuple[str, str]]
    attributes: dict[str, str]
    unit: str

    @property
    def name(self) -> str:
        return SETTING + self.key


@dataclass(frozen=True, slots=True)
class Form:
    """What the form holds: text as people typed it; an empty setting means the preset's value or the default."""

    base_model: str = ""
    preset: str = "standard"
    note: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    rule: dict[str, str] = field(default_factory=dict)
    snapshot_id: int | None = None
    key: str = ""

    def config(self) -> dict[str, Any]:
        """The settings for `training_config.validate`."""
        preset = next((one for one in PRESETS if one.name == self.preset), PRESETS[0])
        return {**preset.settings, **{key: text for key, text in self.settings.items() if text.strip()}}

    def checked_rule(self) -> dict[str, Any]:
        """The rule for `snapshots.freeze`. Raises Invalid."""
        rule: dict[str, Any] = {key: self.rule[key] == "true" for key in RULE_BOXES if key in self.rule}
        if "weights" in self.rule:
            rule["weights"] = self.rule["weights"]
        if needed := self.rule.get("min_judgments", "").strip():
            if not needed.isdecimal() or len(needed) > 4:
                raise Invalid("“Judgments needed” is a whole number.", "Choose 1 to 25.", field="min_judgments")
            rule["min_judgments"] = int(needed)
        return rule

    def inputs(self) -> list[tuple[str, list[Input]]]:
        """(group, its fields) of every setting."""
        return [
            (
                group,
                [
                    _input(option, self.settings.get(option.key, ""))
                    for option in run_settings.OPTIONS
                    if option.group == group
                ],
            )
            for group in run_settings.GROUPS
        ]


def read(fields: Mapping[str, str]) -> Form:
    """The form from what a browser sent."""
    snapshot_id = fields.get("snapshot_id", "")
    rule = {key: fields[RULE + key] for key in RULE_HELP if RULE + key in fields}
    if rule:  # a box that isn't ticked isn't sent
        rule = dict.fromkeys(RULE_BOXES, "false") | rule
    return Form(
        base_model=fields.get("base_model", ""),
        preset=fields.get("preset", "standard"),
        note=fields.get("note", ""),
        settings={key.removeprefix(SETTING): text for key, text in fields.items() if key.startswith(SETTING)},
        rule=rule,
        snapshot_id=int(snapshot_id) if snapshot_id.isdecimal() and len(snapshot_id) < 10 else None,
        key=fields.get("key", "")[:64],
    )


def from_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Fields that repeat a run's configuration: what differs from the defaults, as text."""
    known = run_settings.BY_KEY
    return {
        SETTING + key: _as_text(value)
        for key, value in config.items()
        if key in known and value != known[key].default and not _is_sum_of_losses(value)
    }


def _is_sum_of_losses(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, list) for part in value)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _input(option: Option, value: str) -> Input:
    kind, options, attributes = "text", [], {"autocomplete": "off", "spellcheck": "false"}
    placeholder = "automatic" if option.default is None else default_text(option)
    help_text = f"{option.help} Empty: {option.auto}." if option.auto else option.help
    if option.kind is bool:
        kind, options = "select", [("", f"{placeholder} (default)"), ("true", "yes"), ("false", "no")]
    elif option.kind is str and option.choices:
        kind, options = (
            "select",
            [("", f"{placeholder} (default)"), *((choice, _choice(option, choice)) for choice in option.choices)],
        )
    elif option.kind in (int, float):
        kind, attributes = (
            "number",
            {
                "min": _plain(option.minimum),
                "max": _plain(option.maximum),
                "inputmode": "decimal",
                "step": "1" if option.kind is int else "any",
            },
        )
    return Input(
        option.key,
        option.label,
        help_text,
        kind,
        value,
        placeholder,
        options,
        {"placeholder": placeholder, **attributes},
        option.unit,
    )


def default_text(option: Option) -> str:
    """What the setting is when nobody sets it."""
    if option.default is None:
        return f"automatic: {option.auto}"
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    if isinstance(option.default, list):
        return ", ".join(option.default)
    return _plain(option.default) if option.kind in (int, float) else _choice(option, str(option.default))


def _choice(option: Option, choice: str) -> str:
    return f"{LOSSES[choice].label} ({choice})" if option.key == "loss_type" else choice


def _plain(value: float | None) -> str:
    return "" if value is None else str(int(value)) if value == int(value) else f"{value:g}"
