"""Two processes that talk over gloo train as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments

ROOT = Path(__file__).parents[4]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


REPLICATED = ["--multi_gpu"]
SHARDED = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]


def launch(
    arguments: list[str], *, module: str = "worker.dpo", how: list[str] = REPLICATED, **variables: str
) -> subprocess.Popen:
    """Two processes by `accelerate launch` as on two GPUs, told that there are none."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *how]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(free_port()), "-m", module]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> list[dict]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output[-2000:] + errors[-4000:]
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    (file,) = out.glob("*model.safetensors")
    return load_file(file)


def samples(events: list[dict]) -> list[tuple]:
    answers = [
        (event["step"], event["phase"], event["decoding"], event["completion"]) for event in events_of(events, "sample")
    ]
    assert len(answers) == 8
    return answers


# 14 pairs in batches of 4: the last batch has fewer pairs; a budget of 150 tokens cuts each process's share in pieces.
COMMON = ["dtype=float32", "num_train_epochs=2", "token_budget=150"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([], id="lora"),
        pytest.param(["lora_r=0", "batch_size=3"], id="full", marks=pytest.mark.long),
        pytest.param(["loss_type=bco_pair_shifted", "batch_size=1"], id="few", marks=pytest.mark.long),
    ],
)
def test_bug_16_two_processes_end_with_the_losses_and_weights_of_one(settings, tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)
    code, alone = engine(*train_arguments(files, tmp_path / "one", *COMMON, *settings, evaluate=True))
    assert code == 0
    together = finish(launch(train_arguments(files, tmp_path / "two", *COMMON, *settings, evaluate=True)))
    for name in ("step", "eval"):
        left, right = events_of(alone, name), events_of(together, name)
        assert [event["step"] for event in left] == [event["step"] for event in right]
        for key in (
            ("loss", "grad_norm", "rewards/margins", "logps/chosen")
            if name == "step"
            else ("eval_loss", "eval_logps/rejected")
        ):
            assert [event[key] for event in right] == pytest.approx([event[key] for event in left], rel=1e-4, abs=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    assert json.loads((tmp_path / "two" / "prefloop.json").read_text())["processes"] == 2


def test_fully_sharded_training_ends_with_the_weights_of_one_process(tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)
    settings = ["max_steps=4", "lora_r=0", "save_steps=2", "sample_prompts=2", "sample_tokens=12"]
    code, alone = engine(*train_arguments(files, tmp_path / "one", *settings, evaluate=True))
    assert code == 0
    together = finish(launch(train_arguments(files, tmp_path / "two", *settings, evaluate=True), how=SHARDED))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    assert samples(together) == samples(alone)


@pytest.mark.long
def test_two_processes_that_are_told_to_stop_keep_one_state_and_go_on_from_it(tmp_path):
    files = run_folder(tmp_path, pairs=14)
    settings = ["num_train_epochs=12", "lora_dropout=0.2"]
    finish(launch(train_arguments(files, tmp_path / "whole", *settings)))
    process = launch(train_arguments(files, tmp_path / "stopped", *settings))
    assert process.stdout is not None
    for line in process.stdout:
        if '"event": "step", ' in line and json.loads(line)["step"] >= 3:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    events = finish(launch(train_arguments(files, tmp_path / "stopped", *settings)))
    assert events_of(events, "step")[0]["step"] > 3
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.long
def test_replicated_weights_answer_the_sample_prompts_too(tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)
    settings = ["max_steps=2", "sample_prompts=2", "sample_tokens=12"]
    code, alone = engine(*train_arguments(files, tmp_path / "one", *settings, evaluate=True))
    assert code == 0
    together = finish(launch(train_arguments(files, tmp_path / "two", *settings, evaluate=True)))
    assert samples(together) == samples(alone)


@pytest.mark.long
def test_memory_that_runs_out_in_one_of_two_processes_halves_the_budget_of_both(tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)
    settings = ["max_steps=3", "token_budget=1000", "pair_order=position"]
    code, alone = engine(*train_arguments(files, tmp_path / "one", *settings))
    assert code == 0
    module = "tests.worker.dpo.short_of_memory"
    together = finish(launch(train_arguments(files, tmp_path / "two", *settings), module=module, SECOND_TAKES="120"))
    warnings = [event["message"] for event in events_of(together, "log") if event.get("level") == "warning"]
    assert warnings[0] == "Memory ran out: 500 tokens in a forward instead of 1000."
    left, right = ([event["loss"] for event in events_of(events, "step")] for events in (alone, together))
    assert right == pytest.approx(left, rel=1e-4)


def test_processes_with_different_room_cut_their_batches_alike(tmp_path, engine):
    files = run_folder(tmp_path, pairs=14)
    code, alone = engine(*train_arguments(files, tmp_path / "one", "max_steps=3"))
    assert code == 0
    module = "tests.worker.dpo.short_of_memory"
    together = finish(launch(train_arguments(files, tmp_path / "two", "max_steps=3"), module=module, SECOND_PLANS="90"))
    left, right = ([event["loss"] for event in events_of(events, "step")] for events in (alone, together))
    assert right == pytest.approx(left, rel=1e-4)
