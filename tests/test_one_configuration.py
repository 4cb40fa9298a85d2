"""One configuration: form, API, `prefloop train` and the engine take the same settings and refuse them in the same words."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import read_session
from app.errors import Invalid
from app.models import Job, Project, Snapshot, TrainingRun, User
from app.services.training import run_settings
from app.services.training.run_config.config import TrainConfig as AppsConfig
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tools import copy_run_config
from worker.dpo.commands.cli import main as engine_main
from worker.dpo.ground.config import SETTINGS, TrainConfig, from_mapping
from worker.dpo.ground.config_file import load_config
from worker.dpo.ground.values import ConfigError, parse_settings

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OWN = {"Sec-Fetch-Site": "same-origin"}

BAD = [
    ({"learning_rte": "1e-5"}, "There is no setting “learning_rte”. Did you mean 'learning_rate'?"),
    ({"zzz": "1"}, "There is no setting “zzz”."),
    ({"beta": "lots"}, "'beta' must be a number above 0 and up to 100, not “lots”."),
    ({"beta": "0"}, "'beta' must be a number above 0 and up to 100, not “0”."),
    ({"beta": "nan"}, "'beta' must be a number above 0 and up to 100, not “nan”."),
    ({"beta": "true"}, "'beta' must be a number above 0 and up to 100, not “true”."),
    ({"label_smoothing": "0.5"}, "'label_smoothing' must be a number from 0 up to but not including 0.5, not “0.5”."),
    ({"batch_size": "2.5"}, "'batch_size' must be a whole number from 1 to 65,536, not “2.5”."),
    ({"use_dora": "maybe"}, "'use_dora' must be true or false, not “maybe”."),
    ({"dtype": "int4"}, "'dtype' must be one of auto, float32, bfloat16, float16, float64, not “int4”."),
    ({"report_to": "email"}, "'report_to' must be a list of tensorboard, mlflow, wandb or none, not “email”."),
    ({"report_to": "5"}, "'report_to' must be a list of tensorboard, mlflow, wandb or none, not “5”."),
    ({"lora_target_modules": ","}, "'lora_target_modules' must be all-linear or names of modules, not “,”."),
    ({"loss_type": "sigmod"}, "There is no loss “sigmod”. Did you mean 'sigmoid'?"),
    (
        {"loss_type": '[["sigmoid", -1]]'},
        "The weight of 'sigmoid' must be a number from 0 to 1,000,000, not “-1”.",
    ),
    (
        {"loss_type": "hinge", "label_smoothing": "0.1"},
        "The loss hinge doesn't use 'label_smoothing'. "
        "Leave it empty, or choose a loss that uses it: sigmoid, robust, exo_pair, simpo.",
    ),
    (
        {"loss_type": "orpo", "sft_weight": "0.5"},
        "The loss orpo has an SFT term already. Leave 'sft_weight' at 0.",
    ),
    (
        {"loss_type": "exo_pair", "label_smoothing": "0"},
        "The loss exo_pair is infinite where 'label_smoothing' is 0. "
        "Set it above 0 (its paper takes 0.001), or leave it empty.",
    ),
    (
        {"max_steps": "0"},
        "There would be nothing to train. Set 'max_steps' to 1 or more, or 'num_train_epochs' above 0.",
    ),
    (
        {"num_train_epochs": "0"},
        "There would be nothing to train. Set 'max_steps' to 1 or more, or 'num_train_epochs' above 0.",
    ),
    (
        {"dtype": "float16", "lora_r": "0"},
        "Full fine-tuning in float16 loses small steps. "
        "Set 'dtype' to bfloat16, or to float32 with 'mixed_precision' at fp16.",
    ),
    (
        {"load_in_4bit": "true", "lora_r": "0"},
        "4-bit weights can't be trained themselves. Set 'lora_r' to 1 or more, or 'load_in_4bit' to false.",
    ),
    ({"use_dora": "true", "lora_r": "0"}, "DoRA belongs to LoRA. Set 'lora_r' to 1 or more, or 'use_dora' to false."),
    (
        {"use_rslora": "true", "lora_r": "0"},
        "rsLoRA belongs to LoRA. Set 'lora_r' to 1 or more, or 'use_rslora' to false.",
    ),
    (
        {"mixed_precision": "bf16", "dtype": "bfloat16"},
        "Autocast works on float32 weights. Leave 'dtype' at auto or float32, or 'mixed_precision' at no.",
    ),
    (
        {"metric_for_best_model": "eval_loss/ipo"},
        "This run has no metric “eval_loss/ipo”. It has eval_loss, eval_rewards/accuracies, eval_rewards/margins, "
        "eval_rewards/chosen, eval_rewards/rejected, eval_rewards/accuracies_low, eval_rewards/accuracies_high, "
        "eval_logps/chosen, eval_logps/rejected, eval_kl.",
    ),
    (
        {"batch_size": "0", "seed": "-1"},
        "'batch_size' must be a whole number from 1 to 65,536, not “0”. "
        "'seed' must be a whole number from 0 to 2,147,483,647, not “-1”.",
    ),
]

GOOD = [
    {},
    {"beta": "5e-2", "batch_size": "8", "use_dora": "true", "learning_rate": ""},
    {"loss_type": '[["sigmoid", 0.8], ["bco_pair", 0.2]]', "metric_for_best_model": "eval_loss/bco_pair"},
    {"loss_type": "simpo", "gamma": "0.3", "label_smoothing": "0.1"},
    {"lora_target_modules": "q_proj, v_proj", "report_to": "none", "gradient_checkpointing": "off"},
    {"lora_r": "0", "dtype": "bfloat16", "max_steps": "10", "num_train_epochs": "0"},
    {"mixed_precision": "no", "share_prefix": "off", "metric_for_best_model": "eval_kl", "seed": "0"},
]


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory, settings: Settings) -> Project:
    prepare_model(settings)
    return factory.judged(6, default_base_model="tiny")


@pytest.fixture
def browser(sign_in: Callable[[User], TestClient], engineer: User) -> TestClient:
    return sign_in(engineer)


@pytest.fixture
def command(engineer: User, project: Project) -> Callable[[dict[str, str]], str]:
    """`prefloop train` with these settings; what it refused, or nothing."""

    def train(given: dict[str, str]) -> str:
        words = [word for name, text in given.items() for word in ("--set", f"{name}={text}")]
        done = CliRunner().invoke(cli, ["train", project.slug, "--as", engineer.username, *words])
        if done.exception is not None and not isinstance(done.exception, Invalid):
            raise done.exception
        return str(done.exception or "")

    return train


def set_words(given: dict[str, str]) -> list[str]:
    return [f"{name}={text}" for name, text in given.items()]


def typed(given: dict[str, str]) -> dict[str, str]:
    return {"base_model": "tiny", "preset": "standard"} | {f"config.{name}": text for name, text in given.items()}


def wanted(given: dict[str, str]) -> dict[str, Any]:
    """What the engine makes of these settings, without those that it is to choose and the machine's own."""
    config = load_config(None, set_words(given)).as_dict()
    return {key: value for key, value in config.items() if value is not None and key not in run_settings.WORKER_KEYS}


def engine_says(given: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    words = [word for setting in set_words(given) for word in ("--set", setting)]
    capsys.readouterr()
    assert engine_main(["train", "--model", "none", "--data", "none", "--out", "none", *words]) == 2
    (event,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert event["reason"] == "bad_setting"
    return event["message"]


@ON_SQLITE
@pytest.mark.parametrize(("given", "said"), BAD, ids=lambda row: " ".join(row) if isinstance(row, dict) else "")
def test_a_refused_setting_is_refused_in_the_same_words_everywhere(
    given: dict[str, str],
    said: str,
    client: TestClient,
    browser: TestClient,
    api: Callable[[User], dict[str, str]],
    engineer: User,
    command: Callable[[dict[str, str]], str],
    project: Project,
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert engine_says(given, capsys) == said
    assert command(given) == said

    for config in (given, parse_settings(set_words(given))):
        reply = client.post("/api/v1/jobs", json={"project": project.slug, "config": config}, headers=api(engineer))
        problem = reply.json()
        assert (reply.status_code, f"{problem['detail']} {problem['next_step']}".strip()) == (422, said)
        assert " ".join(error["message"] for error in problem["errors"]) == said
        assert {error["field"].removeprefix("body.config.") for error in problem["errors"]} <= {*given, "max_steps"}

    page = browser.post(f"/projects/{project.slug}/train", data=typed(given), headers=OWN)
    assert page.status_code == 422
    beside = re.findall(r'id="config\.(\w+)-error">(.*?)</p>', page.text)
    texts = [html.unescape(text) for _, text in beside]
    if set(given) <= set(SETTINGS):
        assert " ".join(texts) == said
        assert {name for name, _ in beside} == {
            error["field"].removeprefix("body.config.") for error in problem["errors"]
        }
    assert said.split(". ")[0] in html.unescape(page.text)
    for name, text in given.items():
        if name in SETTINGS:
            field = re.search(rf'name="config\.{name}".*?</div>', page.text, re.DOTALL)[0]
            assert f'value="{html.escape(text)}"' in field.replace("&#34;", "&quot;")

    with read_session(engine) as session:
        assert not session.scalar(select(func.count()).select_from(Job))
        assert not session.scalar(select(func.count()).select_from(Snapshot))


@ON_SQLITE
@pytest.mark.parametrize("given", GOOD, ids=" ".join)
def test_settings_that_the_engine_takes_make_the_same_run_everywhere(
    given: dict[str, str],
    client: TestClient,
    browser: TestClient,
    api: Callable[[User], dict[str, str]],
    engineer: User,
    command: Callable[[dict[str, str]], str],
    project: Project,
    engine: Engine,
) -> None:
    assert command(given) == ""
    for config in (given, parse_settings(set_words(given))):
        reply = client.post("/api/v1/jobs", json={"project": project.slug, "config": config}, headers=api(engineer))
        assert reply.status_code == 201, reply.text
    reply = browser.post(f"/projects/{project.slug}/train", data=typed(given), headers=OWN)
    assert reply.status_code == 303, reply.text
    with read_session(engine) as session:
        configs = list(session.scalars(select(TrainingRun.config)))
    assert configs == 4 * [wanted(given)]


def test_the_apps_copy_is_the_engines_text() -> None:
    for path, text in copy_run_config.copies().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: make run-config"
    assert {path.name for path in copy_run_config.TARGET.glob("*.py")} == {
        "__init__.py", *(path.name for path in copy_run_config.copies() if path.parent == copy_run_config.TARGET)
    }  # fmt: skip


def test_the_engine_takes_what_the_app_stores(tmp_path: Path) -> None:
    assert from_mapping(run_settings.validate({})) == TrainConfig()
    assert AppsConfig.model_json_schema() == TrainConfig.model_json_schema()


values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**40), st.floats(), st.text(max_size=8),
    st.sampled_from([value for setting in SETTINGS.values() for value in (setting.default, *setting.choices)]),
    st.lists(st.sampled_from(["sigmoid", "sft", ["ipo", 0.5], "q_proj", "none", 3]), max_size=3),
)  # fmt: skip
names = st.sampled_from([*(name for name in SETTINGS if name not in run_settings.WORKER_KEYS), "betta"])


@given(st.dictionaries(names, values, max_size=5))
def test_app_and_engine_agree_on_any_settings(given: dict[str, Any]) -> None:
    try:
        engines = {key: value for key, value in from_mapping(given).as_dict().items() if value is not None}
    except ConfigError as error:
        with pytest.raises(Invalid) as refused:
            run_settings.validate(given)
        assert str(refused.value) == str(error)  # noqa: PT017
    else:
        apps = run_settings.validate(given)
        assert apps == {key: value for key, value in engines.items() if key not in run_settings.WORKER_KEYS}
        assert from_mapping(apps) == from_mapping(given)
