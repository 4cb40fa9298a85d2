"""Presets: settings for a purpose, under what somebody sets."""

import pytest

from app.services.training.presets import FEW_PAIRS, PRESETS, Preset, named, preset_for, with_preset
from app.services.training.run_settings import validate


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_a_configuration_that_a_run_can_have(preset: Preset) -> None:
    checked = validate(with_preset(preset.name, {}))
    assert {key: checked[key] for key in preset.settings} == preset.settings


def test_what_is_given_goes_before_the_presets_value() -> None:
    assert with_preset("few", {"batch_size": "4"})["batch_size"] == "4"
    assert with_preset("few", {})["batch_size"] == named("few").settings["batch_size"]


def test_few_pairs_open_with_the_preset_for_few() -> None:
    assert preset_for(FEW_PAIRS - 1) == "few"
    assert preset_for(FEW_PAIRS) == "standard"


def test_an_unknown_name_is_the_standard_preset() -> None:
    assert named("nothing of the kind") is PRESETS[0]
