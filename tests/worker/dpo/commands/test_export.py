"""`export`: events, exit codes, and a real model in a GGUF file that llama.cpp serves."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.worker.dpo.exports_for_tests import save_checkpoint, tiny_model
from tests.worker.dpo.tiny import save_tiny
from worker.dpo.commands.export import FORMATS
from worker.dpo.ground.events import Event
from worker.dpo.publish import export as exporting


def test_the_command_offers_what_the_export_can():
    assert FORMATS == exporting.FORMATS


def test_events_say_how_far_it_is_and_what_was_compared(engine, tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model())
    code, events = engine(
        "export", "--model", base, "--adapter", checkpoint, "--as", "gguf-q8_0", "--out", tmp_path / "out"
    )
    assert code == 0
    assert {event["event"] for event in events} <= set(Event)
    states = [event for event in events if event["event"] == "state"]
    assert list(dict.fromkeys(state["stage"] for state in states)) == list(exporting.STAGES)
    assert len(states) == len(exporting.STAGES), "a stage is told once"
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == sorted(set(steps)) and steps[0] == 0 and 90 <= steps[-1] <= 100
    assert {event["total_steps"] for event in events if event["event"] in ("state", "step")} == {100}
    logs = [event["message"] for event in events if event["event"] == "log"]
    assert any("llama.cpp" in message and "nats" in message for message in logs)
    done = events[-1]
    assert done["event"] == "done" and done["as"] == "gguf-q8_0"
    assert done["files"] == ["Modelfile", "README.md", "export.json", "model-q8_0.gguf", "prefloop.json"]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["checks"] == done["checks"]


def test_a_refusal_is_an_error_event_with_its_reason(engine, tmp_path):
    base = save_tiny(tmp_path / "base")  # its tokenizer merges nothing
    code, events = engine("export", "--model", base, "--adapter", base, "--as", "gguf-f16", "--out", tmp_path / "out")
    assert code == 2
    assert [event["event"] for event in events] == ["error"]
    assert (events[0]["reason"], events[0]["exit_code"]) == ("export_refused", 2)
    assert "Export it as merged instead." in events[0]["message"]
    code, events = engine("export", "--model", base, "--adapter", tmp_path, "--as", "merged", "--out", tmp_path / "out")
    assert (code, events[-1]["reason"]) == (2, "bad_setting")
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_ends_with_its_own_code(engine, tmp_path, monkeypatch):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model())
    monkeypatch.setattr(exporting.proof, "EXACT", 0.0)
    code, events = engine(
        "export", "--model", base, "--adapter", checkpoint, "--as", "merged", "--out", tmp_path / "out"
    )
    assert (code, events[-1]["event"], events[-1]["reason"]) == (7, "error", "export_differs")
    assert not (tmp_path / "out").exists()


def test_sigterm_ends_it_with_nothing_left_behind(tmp_path):
    base, checkpoint = save_checkpoint(tmp_path, tiny_model(num_hidden_layers=24))
    command = ["--model", base, "--adapter", checkpoint, "--as", "gguf-f16", "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.dpo", "export", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if json.loads(line).get("stage") == "scoring":
                process.send_signal(signal.SIGTERM)
                break
        rest = [json.loads(line) for line in process.stdout]
    assert process.returncode == 143
    assert (rest[-1]["event"], rest[-1]["reason"]) == ("error", "terminated")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoint"]


@pytest.mark.long
def test_a_real_model_is_served_by_llama_cpp_as_it_was_trained(engine, smollm2, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    policy = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
    policy.save_pretrained(tmp_path / "checkpoint")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(tmp_path / "checkpoint")
    code, events = engine(
        "export",
        "--model",
        smollm2,
        "--adapter",
        tmp_path / "checkpoint",
        "--as",
        "gguf-q8_0",
        "--out",
        tmp_path / "out",
    )
    assert code == 0, events[-1]
    facts = events[-1]
    assert facts["not_checked"] == []
    served = next(check for check in facts["checks"] if check["reader"] == "llama.cpp" and "nats" in check["says"])
    assert served["figures"]["logp_difference_mean"] <= 0.05 and served["figures"]["greedy_agreement"] > 0.9
    assert facts["training_moved"] > 0
    assert "ChatML" in facts["modelfile"]
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in (tmp_path / "out" / "Modelfile").read_text()
