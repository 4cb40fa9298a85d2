"""Settings for a purpose: what a form starts from. What somebody sets goes before a preset's value."""

from dataclasses import dataclass
from typing import Any

from app.services.training.run_config.values import plain
from app.services.training.run_settings import BY_KEY


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    title: str
    text: str
    settings: dict[str, float]

    @property
    def summary(self) -> str:
        return " · ".join(f"{BY_KEY[key].label} {plain(value)}" for key, value in self.settings.items())


PRESETS = (
    Preset("standard", "Standard", "One pass with a LoRA adapter and the defaults of the literature.", {}),
    Preset(
        "few",
        "Few pairs",
        "Three passes in small batches, for some hundred pairs or fewer.",
        {"num_train_epochs": 3, "batch_size": 8, "learning_rate": 5e-5},
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


def named(name: str) -> Preset:
    """The preset of that name, else the standard one."""
    return next((preset for preset in PRESETS if preset.name == name), PRESETS[0])


def preset_for(train_pairs: int) -> str:
    """The name of the preset that a form opens with."""
    return "few" if train_pairs < FEW_PAIRS else "standard"


def with_preset(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the preset's settings, under what was `given`."""
    return {**named(name).settings, **given}
