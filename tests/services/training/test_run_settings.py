"""The settings as the app shows and takes them: the engine's own, under labels, without what is the worker's."""

import pytest

from app.errors import Invalid
from app.services.training.run_config.config import SETTINGS
from app.services.training.run_config.losses import LOSSES
from app.services.training.run_settings import (
    BY_KEY,
    GROUPS,
    LOSS_LABELS,
    OPTIONS,
    WORKER_KEYS,
    parse,
    problems_of,
    validate,
)


def test_every_setting_has_a_label_in_a_group_or_is_the_workers_own() -> None:
    assert set(BY_KEY) | WORKER_KEYS == set(SETTINGS)
    assert not set(BY_KEY) & WORKER_KEYS
    assert len(BY_KEY) == len(OPTIONS)
    assert {option.group for option in OPTIONS} == set(GROUPS)
    assert all(option.label for option in OPTIONS)


def test_every_loss_has_a_label_of_its_own() -> None:
    assert set(LOSS_LABELS) == set(LOSSES)
    assert len(set(LOSS_LABELS.values())) == len(LOSSES)


def test_text_of_a_form_becomes_numbers_and_what_nobody_set_is_the_default_or_absent() -> None:
    config = validate(
        {
            "learning_rate": "1e-5",
            "batch_size": "8",
            "use_dora": "on",
            "beta": "",
            "lora_target_modules": "q_proj, v_proj",
        }
    )
    assert (config["learning_rate"], config["batch_size"], config["use_dora"]) == (1e-5, 8, True)
    assert config["lora_target_modules"] == ["q_proj", "v_proj"]
    assert config["seed"] == 42
    assert "beta" not in config


@pytest.mark.parametrize("key", sorted(WORKER_KEYS))
def test_what_names_a_part_of_a_machine_is_the_workers_own(key: str) -> None:
    with pytest.raises(Invalid) as refused:
        validate({key: "/etc", "batch_size": 0})
    assert problems_of(refused.value) == {
        key: f"The setting '{key}' is the worker's own. Leave it out.",
        "batch_size": "'batch_size' must be a whole number from 1 to 65,536, not “0”.",
    }
    assert not WORKER_KEYS & set(validate({}))


def test_a_refusal_names_each_setting_at_fault() -> None:
    with pytest.raises(Invalid) as refused:
        validate({"beta": "lots"})
    assert refused.value.details == {
        "setting": "beta",
        "errors": [
            {"field": "body.config.beta", "message": "'beta' must be a number above 0 and up to 100, not “lots”."}
        ],
    }


def test_words_of_a_command_line_are_understood_as_the_engine_understands_them() -> None:
    assert parse(["beta=0.2", "loss_type=[[sigmoid, 0.8], [ipo, 0.2]]", "note=5e-6", "gamma="]) == {
        "beta": 0.2,
        "loss_type": [["sigmoid", 0.8], ["ipo", 0.2]],
        "note": "5e-6",
        "gamma": None,
    }
    with pytest.raises(Invalid, match="--set takes key=value, not “beta”"):
        parse(["beta"])
