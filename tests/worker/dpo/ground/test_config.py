"""A run's settings: what they may be, what is said where they can't be, and that they stay as they were given."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.dpo.ground.config import METRICS, SETTINGS, TrainConfig, from_mapping
from worker.dpo.ground.config_file import load_config
from worker.dpo.ground.values import ConfigError, parse_settings


def refused(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        from_mapping(values)
    return str(error.value)


def tried(values: dict) -> TrainConfig | ConfigError:
    try:
        return from_mapping(values)
    except ConfigError as error:
        return error


def test_every_setting_has_a_meaning_and_says_what_nothing_stands_for() -> None:
    for setting in SETTINGS.values():
        assert setting.meaning.endswith("."), setting.name
        assert bool(setting.empty) == (setting.default is None), setting.name
        assert setting.allowed, setting.name


def test_a_number_has_bounds_on_both_sides() -> None:
    for setting in SETTINGS.values():
        if isinstance(setting.default, int | float) and not isinstance(setting.default, bool):
            assert (setting.ge is None) != (setting.gt is None), setting.name
            assert (setting.le is None) != (setting.lt is None), setting.name


def test_settings_can_not_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().beta = 0.2  # type: ignore[misc]


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_nothing_is_the_default_of_every_setting(nothing: str | None) -> None:
    assert from_mapping(dict.fromkeys(SETTINGS, nothing)) == TrainConfig()


def test_the_defaults_and_every_way_to_spell_a_value_give_what_the_released_engine_wrote() -> None:
    # A training state of the release goes on only where these are equal, so they must not change. Its number type was
    # float32 by default, which is what `auto` becomes where such a state is found.
    assert TrainConfig().as_dict() == {
        "loss_type": "sigmoid", "beta": None, "label_smoothing": None, "gamma": None, "sft_weight": 0.0,
        "use_soft_labels": True, "learning_rate": None, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1,
        "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
        "num_train_epochs": 1.0, "max_steps": -1, "batch_size": 16, "max_length": None, "lora_r": 16,
        "lora_alpha": 32.0, "lora_dropout": 0.0, "lora_target_modules": "all-linear", "use_rslora": False,
        "use_dora": False, "adapter": None, "load_in_4bit": False, "dtype": "auto", "mixed_precision": "no",
        "device": "auto", "seed": 42, "token_budget": None, "head_chunk_mb": 64.0, "gradient_checkpointing": "auto",
        "share_prefix": "auto", "reference_cache": None, "eval_steps": None, "early_stopping_patience": 0,
        "metric_for_best_model": "eval_loss", "publish": "auto", "save_steps": None, "save_minutes": 10.0,
        "sample_prompts": 8, "sample_tokens": 64, "report_to": ["tensorboard"], "num_workers": None,
        # Came later, and change no outcome.
        "compile": "auto", "threads": "auto",
        # Came later; where a state of the release is found, it becomes "position".
        "pair_order": "content",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("beta", "5e-2", 0.05),
        ("beta", 1, 1.0),
        ("batch_size", "8", 8),
        ("batch_size", 8.0, 8),
        ("max_steps", "1e2", 100),
        ("use_dora", "On", True),
        ("use_dora", 0, False),
        ("gradient_checkpointing", True, "on"),  # YAML reads on, off and no as booleans
        ("gradient_checkpointing", False, "off"),
        ("mixed_precision", False, "no"),
        ("share_prefix", False, "off"),
        ("loss_type", [["sigmoid", 1], ["sft", 0.5]], [["sigmoid", 1], ["sft", 0.5]]),
        ("loss_type", ["sigmoid", ["ipo", 2]], ["sigmoid", ["ipo", 2]]),
        ("loss_type", '[["sigmoid", 0.8], ["bco_pair", "2e-1"]]', [["sigmoid", 0.8], ["bco_pair", 0.2]]),
        ("lora_target_modules", "q_proj", "q_proj"),
        ("lora_target_modules", ["q_proj"], ["q_proj"]),
        ("lora_target_modules", "q_proj, v_proj,", ["q_proj", "v_proj"]),
        ("lora_target_modules", ["all-linear"], "all-linear"),
        ("report_to", "none", ["none"]),
        ("report_to", ["none"], ["none"]),
        ("report_to", [], []),
        ("report_to", "tensorboard, wandb", ["tensorboard", "wandb"]),
        ("device", "cuda:1", "cuda:1"),
        ("metric_for_best_model", "eval_kl", "eval_kl"),
    ],
)
def test_a_value_stays_as_the_released_engine_kept_it(name: str, given: object, kept: object) -> None:
    value = getattr(from_mapping({name: given}), name)
    assert json.dumps(value) == json.dumps(kept)
    again = from_mapping({name: value})
    assert getattr(again, name) == value


@pytest.mark.parametrize("metric", [*METRICS, "eval_loss/sigmoid", "eval_loss/sft"])
def test_a_metric_of_the_run_can_mean_best(metric: str) -> None:
    config = from_mapping({"metric_for_best_model": metric, "sft_weight": 0.1})
    assert config.metric_for_best_model == metric


@pytest.mark.parametrize(
    "values",
    [
        {"metric_for_best_model": "eval_kl", "loss_type": "simpo"},
        {"metric_for_best_model": "eval_loss/sigmoid"},
        {"metric_for_best_model": "eval_loss/ipo", "sft_weight": 0.1},
        {"metric_for_best_model": "loss"},
    ],
)
def test_a_metric_that_the_run_does_not_have_is_refused(values: dict) -> None:
    assert f"This run has no metric “{values['metric_for_best_model']}”. It has eval_loss" in refused(values)


def test_every_wrong_setting_is_named_at_once() -> None:
    text = refused({"betta": 1, "batch_size": 0, "dtype": "int4"})
    assert text == (
        "There is no setting “betta”. Did you mean 'beta'? 'batch_size' must be a whole number from 1 to 65,536, "
        "not “0”. 'dtype' must be one of auto, float32, bfloat16, float16, float64, not “int4”."
    )


HOSTILE = [
    10**400, -(10**5000), float("nan"), float("inf"), float("-inf"), 1e308, "9" * 100_000,
    "\x00", "\ud800", "x\ny", [[]], {}, {"a": 1}, [None], [10**5000], object(), b"bytes", {1, 2}, "[" * 100_000,
    (), True, [True], [["sigmoid", True]], [["sigmoid", None]], [["sigmoid", 10**400]], [["sigmoid", float("nan")]], 1.5,
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_whatever_is_sent_is_taken_or_refused_in_one_short_line(name: str) -> None:
    for value in HOSTILE:
        answer = tried({name: value})
        if isinstance(answer, TrainConfig):
            json.dumps(answer.as_dict(), allow_nan=False).encode()
            continue
        (problem,) = answer.problems
        assert problem.setting == name, problem
        assert len(str(problem)) < 800 and str(problem).isprintable(), problem


@pytest.mark.parametrize("key", [1, None, "x" * 100_000, "\ud800", ("a",)])
def test_a_key_of_any_kind_is_an_unknown_setting(key: object) -> None:
    text = refused({key: 1})
    assert text.startswith("There is no setting “") and len(text) < 200 and text.isprintable()
    answer = tried({key: 1})
    assert isinstance(answer, ConfigError) and answer.problems[0].setting.isprintable()


def test_a_crowd_of_unknown_keys_is_answered_shortly() -> None:
    assert len(refused({f"key{number}": 1 for number in range(10_000)})) < 5000


def test_a_list_that_holds_itself_is_refused() -> None:
    values = parse_settings(["loss_type=&a [*a]"])
    assert "'loss_type' must be a loss" in refused(values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), json_values, max_size=6))
def test_any_json_is_taken_or_refused_and_what_is_taken_is_taken_again(values: dict) -> None:
    answer = tried(values)
    if isinstance(answer, TrainConfig):
        assert from_mapping(json.loads(json.dumps(answer.as_dict(), allow_nan=False))) == answer
    else:
        assert answer.problems and str(answer)


@given(st.text(max_size=60))
def test_any_text_after_set_is_understood_or_refused(text: str) -> None:
    answer = tried(parse_settings([f"beta={text}"]))
    assert isinstance(answer, TrainConfig) or "'beta' must be a number" in str(answer)


@pytest.mark.parametrize("word", ["beta", "", "-x"])
def test_set_without_an_equals_sign_says_how(word: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--set takes key=value, not “{word}”. For example: --set learning_rate=5e-6"
    ):
        parse_settings([word])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "- a list", "must be a mapping of settings, not a list"),
        ("a.json", "[1]", "must be a mapping of settings, not a list"),
        ("a.yaml", "{unclosed", "Cannot read the configuration"),
        ("a.json", '{"seed": ' + "9" * 5000 + "}", "Cannot read the configuration"),
        ("a.yaml", "seed: " + "9" * 5000, "Cannot read the configuration"),
        ("a.yaml", "seed: " + "[" * 5000, "Cannot read the configuration"),
        ("a.json", '{"seed": ' + "[" * 100_000 + "}", "Cannot read the configuration"),
        ("a.yaml", "seed: 2024-13-45", "Cannot read the configuration"),
        ("a.yaml", "seed: 2024-01-01", "'seed' must be a whole number from 0"),
        ("a.json", '{"beta": NaN}', "'beta' must be a number above 0"),
        ("a.json", '{"beta": 1e999}', "'beta' must be a number above 0"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / name)


def test_a_file_that_is_not_there_or_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nowhere.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(ConfigError, match="Cannot read the configuration"):
            load_config(path)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "a.yaml") == TrainConfig()
