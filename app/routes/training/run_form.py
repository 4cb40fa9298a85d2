"""The form of a new run: its fields, made from the table of settings, and what people typed into it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import Invalid
from app.services.training import presets, run_settings
from app.services.training.run_config.losses import components
from app.services.training.run_config.values import Kind, plain
from app.services.training.run_settings import LOSS_LABELS, Option

SETTING = "config."
RULE = "rule."
RULE_BOXES = ("soft_labels", "include_late", "include_flagged", "include_near_duplicates")
RULE_HELP = {
    "min_judgments": "Judgments that a comparison needs before it counts; skips don't.",
    "weights": "Pairs that were clearly better may weigh more than pairs that were slightly better.",
    "soft_labels": "Train towards the share of evaluators who chose the answer, not the majority alone.",
    "include_late": "Count judgments that came after their lease had passed to somebody else.",
    "include_flagged": "Keep pairs that an evaluator flagged as unfit.",
    "include_near_duplicates": "Train also on prompts that are nearly the same as one that is kept for evaluation.",
}


@dataclass(frozen=True, slots=True)
class Input:
    """One setting as a field. kind: select or text. placeholder: what an empty field means."""

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
    from_checkpoint: int | None = None
    new_pairs_only: bool = False
    key: str = ""

    def config(self) -> dict[str, Any]:
        """The settings for `run_settings.validate`."""
        return presets.with_preset(self.preset, {key: text for key, text in self.settings.items() if text.strip()})

    def checked_rule(self) -> dict[str, Any]:
        """The rule for `snapshots.freeze`. Raises Invalid."""
        rule: dict[str, Any] = {key: self.rule[key] == "true" for key in RULE_BOXES if key in self.rule}
        if "weights" in self.rule:
            rule["weights"] = self.rule["weights"]
        if needed := self.rule.get("min_judgments", "").strip():
            if not needed.isdecimal() or len(needed) > 4:
                raise Invalid("“Judgments needed” is a whole number.", "Choose 1 to 25.", field="min_judgments")
            rule["min_judgments"] = int(needed)
        if self.new_pairs_only and self.from_checkpoint is not None:
            rule["new_to_checkpoint"] = self.from_checkpoint
        return rule

    def places(self) -> dict[str, str]:
        """The id of the part of the page where each thing is set, by the name that an error gives it."""
        return {
            "base_model": "model-title",
            "min_judgments": RULE + "min_judgments",
            "from_checkpoint": "from_checkpoint",
            "new_pairs_only": "from_checkpoint",
        } | {key: SETTING + key for key in run_settings.BY_KEY}

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
    rule = {key: fields[RULE + key] for key in RULE_HELP if RULE + key in fields}
    if rule:  # a box that isn't ticked isn't sent
        rule = dict.fromkeys(RULE_BOXES, "false") | rule
    return Form(
        base_model=fields.get("base_model", ""),
        preset=fields.get("preset", "standard"),
        note=fields.get("note", ""),
        settings={key.removeprefix(SETTING): text for key, text in fields.items() if key.startswith(SETTING)},
        rule=rule,
        snapshot_id=_number(fields.get("snapshot_id", "")),
        from_checkpoint=_number(fields.get("from_checkpoint", "")),
        new_pairs_only=fields.get("new_pairs_only") == "true",
        key=fields.get("key", "")[:64],
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def from_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Fields that repeat a run's configuration: what differs from the defaults, as text."""
    known = run_settings.BY_KEY
    return {
        SETTING + key: _as_text(known[key], value)
        for key, value in config.items()
        if key in known and value != known[key].default
    }


def _as_text(option: Option, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value) if option.key == "loss_type" else ",".join(map(str, value))
    return str(value)


def _input(option: Option, value: str) -> Input:
    setting = option.setting
    placeholder = "automatic" if setting.default is None else default_text(option)
    chosen: list[tuple[str, str]] = []
    if setting.kind is Kind.FLAG:
        chosen = [("true", "yes"), ("false", "no")]
    elif setting.choices and setting.kind is not Kind.CHOICES:
        chosen = [(choice, _choice(option, choice)) for choice in setting.choices]
    if chosen and value and value not in dict(chosen):
        # A sum of losses, or what a request said: it stays as it is.
        chosen.append((value, _choice(option, value)))
    attributes = {"autocomplete": "off", "spellcheck": "false", "placeholder": placeholder}
    if setting.kind in (Kind.WHOLE, Kind.NUMBER):
        # Not type="number": a browser empties such a field of what it can't read, and empty means the default.
        attributes["inputmode"] = "decimal"
    return Input(
        key=option.key,
        label=option.label,
        help=f"{setting.meaning} Empty: {setting.empty}." if setting.empty else setting.meaning,
        kind="select" if chosen else "text",
        value=value,
        placeholder=placeholder,
        options=[("", f"{placeholder} (default)"), *chosen],
        attributes=attributes,
        unit=option.unit,
    )


def default_text(option: Option) -> str:
    """What the setting is when nobody sets it."""
    default = option.default
    if default is None:
        return f"automatic: {option.setting.empty}"
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, list):
        return ", ".join(default)
    if isinstance(default, int | float):
        return option.in_words(default) or plain(default)
    return _choice(option, default)


def _choice(option: Option, choice: str) -> str:
    if option.key != "loss_type":
        return choice
    try:
        terms = [(LOSS_LABELS.get(name, name), weight) for name, weight in components(json.loads(choice))]
        return " + ".join(f"{weight:g} × {label}" for label, weight in terms)
    except (ValueError, TypeError, LookupError, RecursionError):
        return f"{LOSS_LABELS[choice]} ({choice})" if choice in LOSS_LABELS else choice
