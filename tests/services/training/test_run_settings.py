"""The table of settings: the engine's own, with clear words for what can't be."""

import dataclasses

import pytest

from app.errors import Invalid
from app.services.training.run_settings import BY_KEY, LOSSES, WORKER_KEYS, validate
from worker.dpo.ground.config import TrainConfig, from_mapping
from worker.dpo.loss import registry


def test_table_has_the_engines_settings_with_its_defaults() -> None:
    engine = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert set(BY_KEY) | WORKER_KEYS == set(engine)
    for key, option in BY_KEY.items():
        field = engine[key]
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        assert option.default == default, key


def test_losses_are_the_engines_with_its_options() -> None:
    assert set(LOSSES) == {name for name, spec in registry.LOSS_TYPES.items() if spec.alone}
    for name, loss in LOSSES.items():
        spec = registry.LOSS_TYPES[name]
        assert loss.options == frozenset(spec.defaults), name
        assert loss.default_beta == spec.defaults["beta"], name
        assert loss.uses_reference == spec.uses_reference, name


def test_defaults_pass_the_engines_own_check() -> None:
    assert from_mapping(validate({})) == TrainConfig()


def test_text_of_a_form_becomes_numbers() -> None:
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
    assert "beta" not in config
    assert from_mapping(config).batch_size == 8


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"learning_rat": 1e-5}, "Did you mean 'learning_rate'"),
        ({"batch_size": 0}, "a whole number from 1 to"),
        ({"batch_size": 2.5}, "a whole number"),
        ({"batch_size": True}, "a whole number"),
        ({"learning_rate": "fast"}, "a number from 0 to 1"),
        ({"learning_rate": float("nan")}, "a number from 0 to 1"),
        ({"dtype": "int4"}, "one of float32"),
        ({"loss_type": "kto"}, "one of sigmoid"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "does not use 'label_smoothing'"),
        ({"loss_type": [["sigmoid", 0]]}, "a list of [loss, weight]"),
        ({"loss_type": [["sft", 1.0]]}, "needs one that learns from preferences"),
        ({"loss_type": "orpo", "sft_weight": 0.5}, "has an SFT term"),
        ({"max_steps": 0}, "nothing to train"),
        ({"lora_r": 0, "use_dora": True}, "belong to LoRA"),
        ({"mixed_precision": "bf16", "dtype": "bfloat16"}, "float32 weights"),
        ({"report_to": ["email"]}, "one of tensorboard"),
        ({"reference_cache": "/etc"}, "the worker's own"),
        ({"adapter": "/etc"}, "the worker's own"),
    ],
)
def test_impossible_setting_is_refused_with_what_it_may_be(config: dict, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        validate(config)
    assert words in str(refused.value)


def test_sum_of_losses_is_understood_by_the_engine() -> None:
    config = validate({"loss_type": [["sigmoid", 0.8], ["bco_pair", 0.2], ["sft", 0.1]]})
    assert from_mapping(config).loss_type == [["sigmoid", 0.8], ["bco_pair", 0.2], ["sft", 0.1]]
