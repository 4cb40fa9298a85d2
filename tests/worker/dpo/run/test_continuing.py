"""A run that starts from what another made: its reference is that, as dense matrices say it, and not the base model."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.dpo.pairs_for_tests import events_of, one_by_one, run_folder, train_arguments
from worker.dpo.data.reading import load_dataset
from worker.dpo.run import loop, resume

BETA = 0.1


def dense(model: Path, adapter: Path) -> torch.nn.Module:
    """The base with each adapter's product B·A·α/r added into its matrix by hand."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    config, weights = (
        json.loads((adapter / "adapter_config.json").read_text()),
        load_file(adapter / "adapter_model.safetensors"),
    )
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for name, matrix in base.named_parameters():
            key = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{key}.lora_A.weight" in weights:
                matrix += scale * weights[f"{key}.lora_B.weight"] @ weights[f"{key}.lora_A.weight"]
    return base


def rewards(policy: torch.nn.Module, reference: torch.nn.Module, pairs: list) -> torch.Tensor:
    """(2, pairs): β times the log-ratios of the chosen and the rejected answers, Eq. 5 of Rafailov et al. 2023."""
    with torch.no_grad():
        return BETA * (one_by_one(policy, pairs) - one_by_one(reference, pairs)).double()


def test_the_reference_is_the_adapter_that_it_starts_from(tmp_path, engine):
    files, first, second = run_folder(tmp_path), tmp_path / "first", tmp_path / "second"
    engine(*train_arguments(files, first, "num_train_epochs=2"))
    arguments = train_arguments(
        files, second, "num_train_epochs=2", f"adapter={first}", "seed=7", f"beta={BETA}", evaluate=True
    )
    code, events = engine(*arguments)
    assert code == 0
    before, *_, after = events_of(events, "eval")
    pairs = load_dataset(files["eval"], AutoTokenizer.from_pretrained(files["model"]), max_length=None).pairs
    base = AutoModelForCausalLM.from_pretrained(files["model"], dtype=torch.float32).eval()
    parent, policy = dense(files["model"], first), dense(files["model"], second)
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    chosen, rejected = rewards(policy, parent, pairs)
    assert after["eval_rewards/chosen"] == pytest.approx(chosen.mean().item(), rel=1e-4)
    assert after["eval_rewards/rejected"] == pytest.approx(rejected.mean().item(), rel=1e-4)
    loss = torch.nn.functional.softplus(rejected - chosen).mean().item()
    assert after["eval_loss"] == pytest.approx(loss, rel=1e-5)
    from_base, _ = rewards(policy, base, pairs)
    assert abs(from_base.mean() - chosen.mean()) > 0.01, "the base would give other numbers"


def test_the_reference_of_a_whole_model_is_the_folder_that_it_starts_from(tmp_path, engine):
    files, first, second = run_folder(tmp_path), tmp_path / "first", tmp_path / "second"
    whole = ("lora_r=0", "num_train_epochs=2", "learning_rate=1e-4")
    engine(*train_arguments(files, first, *whole))
    code, events = engine(*train_arguments(files | {"model": first}, second, *whole, f"beta={BETA}", evaluate=True))
    assert code == 0
    pairs = load_dataset(files["eval"], AutoTokenizer.from_pretrained(files["model"]), max_length=None).pairs
    policy, parent = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).eval() for one in (second, first))
    chosen, rejected = rewards(policy, parent, pairs)
    before, *_, after = events_of(events, "eval")
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert after["eval_rewards/chosen"] == pytest.approx(chosen.mean().item(), rel=1e-3, abs=1e-6)
    assert after["eval_rewards/rejected"] == pytest.approx(rejected.mean().item(), rel=1e-3, abs=1e-6)


def test_a_run_that_was_killed_computes_the_reference_of_its_start_again(tmp_path, engine, monkeypatch):
    files, first = run_folder(tmp_path), tmp_path / "first"
    engine(*train_arguments(files, first, "num_train_epochs=2"))
    common = [f"adapter={first}", "num_train_epochs=2", "save_steps=1"]
    assert engine(*train_arguments(files, tmp_path / "whole", *common))[0] == 0
    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == 4:
            raise KeyboardInterrupt
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(KeyboardInterrupt):
            engine(*train_arguments(files, tmp_path / "killed", *common))
    again = [*common, f"reference_cache={tmp_path / 'another cache'}"]
    code, events = engine(*train_arguments(files, tmp_path / "killed", *again))
    assert code == 0 and events_of(events, "step")[0]["step"] == 5
    assert next(event["missing"] for event in events_of(events, "state") if event.get("stage") == "reference") == 16
    whole, killed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def killed_after_two_steps(engine, monkeypatch, arguments) -> None:
    real = loop.optimizer_step

    def dies(run):
        if run.progress.step == 2:
            raise KeyboardInterrupt
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", dies)
        with pytest.raises(KeyboardInterrupt):
            engine(*arguments)


def test_a_run_that_was_killed_goes_on_where_its_folder_and_the_adapter_s_were_moved(tmp_path, engine, monkeypatch):
    files, first, common = run_folder(tmp_path), tmp_path / "first", ["max_steps=3", "save_steps=1"]
    engine(*train_arguments(files, first, "max_steps=1"))
    killed_after_two_steps(
        engine, monkeypatch, train_arguments(files, tmp_path / "killed", *common, f"adapter={first}")
    )
    shutil.move(first, tmp_path / "moved")
    shutil.move(tmp_path / "killed", tmp_path / "elsewhere")
    config = tmp_path / "moved" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/another/path"}))
    moved = train_arguments(files, tmp_path / "elsewhere", *common, f"adapter={tmp_path / 'moved'}")
    code, events = engine(*moved)
    assert code == 0 and [event["step"] for event in events_of(events, "step")] == [3]


def test_a_training_state_that_knows_its_adapter_by_the_path_still_goes_on(tmp_path, engine, monkeypatch):
    files, first = run_folder(tmp_path), tmp_path / "first"
    engine(*train_arguments(files, first, "max_steps=1"))
    arguments = train_arguments(files, tmp_path / "killed", "max_steps=3", "save_steps=1", f"adapter={first}")
    now = resume.fingerprints
    with monkeypatch.context() as patch:
        patch.setattr(resume, "fingerprints", lambda setup: now(setup)[1:])
        killed_after_two_steps(engine, monkeypatch, arguments)
    code, events = engine(*arguments)
    assert code == 0 and [event["step"] for event in events_of(events, "step")] == [3]


def test_another_adapter_is_another_run(tmp_path, engine, monkeypatch):
    files, first, second = run_folder(tmp_path), tmp_path / "first", tmp_path / "second"
    engine(*train_arguments(files, first, "max_steps=1"))
    engine(*train_arguments(files, second, "max_steps=1", "seed=7"))
    common = ["max_steps=3", "save_steps=1"]
    killed_after_two_steps(
        engine, monkeypatch, train_arguments(files, tmp_path / "killed", *common, f"adapter={first}")
    )
    code, events = engine(*train_arguments(files, tmp_path / "killed", *common, f"adapter={second}"))
    assert code == 2 and "another model, data or configuration" in events[-1]["message"]
