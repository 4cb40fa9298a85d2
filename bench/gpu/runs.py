"""Whole runs of the engine on a GPU: resumed, short of memory, in every type, beside TRL, by two processes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.gpu.place import Place
from bench.gpu.speed import engine_run, trl_run
from worker.dpo.ground.stopping import Stop


def _losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["event"] == "step"]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (out / "adapter_model.safetensors").exists() else "model.safetensors"
    return load_file(out / name)


def resume(place: Place) -> dict[str, Any]:
    """A run stopped after half its steps and started again ends with the weights of one that wasn't, to the last bit."""
    data = place.data("hh", 96)
    figures: dict[str, Any] = {}
    good = True
    for name, settings in {
        "compiled": {"learning_rate": 1e-4, "compile": "on"},
        "dropout": {"learning_rate": 1e-4, "lora_dropout": 0.1, "compile": "off"},
        "full": {"learning_rate": 1e-6, "lora_r": 0, "compile": "off"},
    }.items():
        # The shape that was compiled for other checks.
        shape = "Qwen2.5-1.5B" if name == "compiled" else "SmolLM2-135M"
        whole, halves = place.folder / f"whole-{name}", place.folder / f"halves-{name}"
        expected = _losses(engine_run(place, shape, data, whole, **settings))
        check, steps = Stop.check, [0]

        def stops(self: Stop, check: Any = check, steps: list[int] = steps) -> None:
            steps[0] += 1
            if any((halves / "state").glob("step-00000003")):  # noqa: B023
                self.requested = True
            check(self)

        Stop.check = stops  # type: ignore[method-assign]
        try:
            first = engine_run(place, shape, data, halves, save_steps=3, may_fail=True, **settings)
        finally:
            Stop.check = check  # type: ignore[method-assign]
        second = engine_run(place, shape, data, halves, save_steps=3, **settings)
        both = _losses(first) + _losses(second)
        one, other = _weights(whole), _weights(halves)
        same = all(torch.equal(one[key], other[key]) for key in one)
        figures[name] = {
            "steps": [len(_losses(first)), len(_losses(second))],
            "same_weights": same,
            "same_losses": both == expected,
            "largest_difference": max((one[key].float() - other[key].float()).abs().max().item() for key in one),
        }
        good &= same and len(_losses(first)) == 3
    return {"ok_if": good, **figures}


def out_of_memory(place: Place) -> dict[str, Any]:
    """With too little memory for the token budget that is asked for, the budget is halved and the run ends well."""
    if not place.is_gpu:
        return {"skipped": "needs a GPU's limit of memory"}
    data = place.data("hh", 64)
    place.model("Qwen2.5-0.5B")
    place.tidy()
    total = torch.cuda.get_device_properties(0).total_memory
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (before + (9 << 30)) / total))
    try:
        events = engine_run(
            place,
            "Qwen2.5-0.5B",
            data,
            place.folder / "oom",
            batch_size=64,
            token_budget=32768,
            max_steps=2,
            compile="off",
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = [event["message"] for event in events if event["event"] == "log" and "ran out" in event["message"]]
    return {"ok_if": said and len(_losses(events)) == 2, "said": said, "losses": _losses(events)}


# Seconds after which `types` begins no further case.
TYPES_SECONDS = 40


def types(place: Place) -> dict[str, Any]:
    """Types and kinds of adapter for two steps each; all start at log 2 and end finite. not_tried: for want of time.

    What other checks run is last: bfloat16 and float32, dropout, compiled layers, full fine-tuning.
    """
    data = place.data("hh", 32)
    cases: dict[str, dict[str, Any]] = {}
    if place.is_gpu:
        cases |= {
            "QLoRA": {"load_in_4bit": "true"},
            "fp16 autocast": {"dtype": "float32", "mixed_precision": "fp16"},
            "float16": {"dtype": "float16"},
        }
    cases |= {
        "bf16 autocast": {"dtype": "float32", "mixed_precision": "bf16"},
        "dora": {"use_dora": "true"},
        "plain rows": {"share_prefix": "off"},
        "recomputed": {"gradient_checkpointing": "on"},
    }
    if place.is_gpu:
        cases |= {
            "fp16 autocast, full": {"dtype": "float32", "mixed_precision": "fp16", "lora_r": 0},
        }
    cases |= {
        "full": {"lora_r": 0},
        "dropout": {"lora_dropout": 0.1},
        "recomputed, compiled": {"gradient_checkpointing": "on", "compile": "on"},
    }
    began = time.monotonic()
    not_tried: list[str] = []
    figures: dict[str, Any] = {}
    good = True
    for name, settings in cases.items():
        if time.monotonic() - began > TYPES_SECONDS and place.is_gpu:
            not_tried.append(name)
            continue
        try:
            events = engine_run(
                place, "SmolLM2-135M", data, place.folder / f"type-{name}", **{"compile": "off"} | settings
            )
        except Exception as problem:
            figures[name], good = f"{type(problem).__name__}: {problem}"[:300], False
            continue
        losses = _losses(events)
        good &= abs(losses[0] - 0.6931) < 0.03 and all(loss == loss and loss < 10 for loss in losses)
        fallbacks = [event["message"] for event in events if "can't be used" in event.get("message", "")]
        good &= not any("slower" in message for message in fallbacks)
        figures[name] = {"losses": [round(loss, 4) for loss in losses], "fallbacks": fallbacks}
    return {"ok_if": good, **figures, "not_tried": not_tried}


def trl_losses(place: Place) -> dict[str, Any]:
    """Full fine-tuning on one batch, four times over: the losses of each step beside TRL's, from the same weights, in float32."""
    data = place.data("hh", 16)
    shared = {"learning_rate": 1e-5, "lr_scheduler_type": "constant"}
    events = engine_run(
        place, "SmolLM2-135M", data, place.folder / "beside-trl", lora_r=0, dtype="float32", warmup_ratio=0, compile="off",
        num_train_epochs=4, max_grad_norm=1.0, **shared,
    )  # fmt: skip
    trl = trl_run(
        place, "SmolLM2-135M", data, lora_r=0, bf16=False, model_init_kwargs={"dtype": "float32"}, max_steps=4,
        logging_strategy="steps", logging_steps=1, warmup_steps=0, **shared,
    )  # fmt: skip
    theirs = [entry for entry in trl["log"] if "loss" in entry]
    mine = [event for event in events if event["event"] == "step"]
    names = ("loss", "rewards/margins", "logps/chosen", "logps/rejected")
    table = {name: [[one[name], other[name]] for one, other in zip(mine, theirs, strict=False)] for name in names}
    close = all(abs(one - other) < 2e-3 for one, other in table["loss"])
    return {"ok_if": close and len(table["loss"]) == 4, **table}


def ranks(place: Place) -> dict[str, Any]:
    """Two processes on the one GPU, through gloo (nccl refuses two of them on one GPU): the losses of one process alone."""
    data, shape = place.data("hh", 32), "SmolLM2-135M"
    settings = {"dtype": "float32", "learning_rate": 1e-4, "compile": "off"}
    alone = _losses(engine_run(place, shape, data, place.folder / "alone", **settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "lora_r": 16, "lora_alpha": 32, "batch_size": 16, "sample_prompts": 0, "report_to": "[]", "save_minutes": 0,
        "device": place.device, "reference_cache": str(place.folder / "ranks-cache"), "num_workers": 1, **settings,
    }  # fmt: skip
    command = ["train", "--model", str(place.model(shape)), "--data", str(data), "--out", str(place.folder / "two")]
    command += [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    script = (
        "import sys, torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "from worker.dpo.commands.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "torch.distributed.destroy_process_group()\n"
        "sys.exit(code)\n"
    )
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "false" if place.is_gpu else "true", "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *command],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    printed = [process.communicate(timeout=120) for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(
            f"{[process.returncode for process in processes]}: {printed[0][0][-500:]} {printed[0][1][-900:]}"
        )
    together = _losses([json.loads(line) for line in printed[0][0].splitlines() if line.startswith("{")])
    close = len(together) == len(alone) and all(
        abs(one - other) < 1e-3 for one, other in zip(alone, together, strict=True)
    )
    return {"ok_if": close, "alone": alone, "together": together}
