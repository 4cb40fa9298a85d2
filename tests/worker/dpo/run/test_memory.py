"""Memory: estimated before the start, the budget cut to it, and running out is survived where it can be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.worker.dpo.pairs_for_tests import events_of, random_pairs, run_folder, train_arguments
from tests.worker.dpo.tiny import save_tiny, tiny_llama
from worker.dpo.ground import memory
from worker.dpo.ground.config import from_mapping
from worker.dpo.ground.memory import is_out_of_memory
from worker.dpo.model.loading import prepare_policy
from worker.dpo.model.scorer import PairScorer
from worker.dpo.run import memory_plan
from worker.dpo.run.memory_plan import activation_bytes, plan_memory

ROOT = Path(__file__).parents[4]


def scorer(**overrides) -> PairScorer:
    return PairScorer(
        prepare_policy(tiny_llama(**overrides), from_mapping({"lora_r": 4})), shared=True, chunk_bytes=1 << 16
    )


def plan(available: int, monkeypatch, said: list[str] | None = None, **settings):
    monkeypatch.setattr(memory_plan, "memory_available", lambda device: available)
    config = from_mapping({"lora_r": 4} | settings)
    return plan_memory(scorer(), random_pairs(60), config, log=(said if said is not None else []).append)


def test_plenty_of_memory_gives_the_budget_of_full_speed_without_recomputing(monkeypatch):
    together = scorer().packing(random_pairs(60)).together()
    monkeypatch.setattr(memory_plan, "BUDGET_CPU", together // 2)
    monkeypatch.setattr(memory_plan, "LEAST_CPU", together // 2)
    full = plan(1 << 34, monkeypatch)
    assert (full.token_budget, full.checkpointing) == (together // 2, False)


def test_a_budget_is_never_more_than_all_pairs_take_together(monkeypatch):
    together = scorer().packing(random_pairs(60)).together()
    monkeypatch.setattr(memory_plan, "BUDGET_CPU", 2 * together)
    monkeypatch.setattr(memory_plan, "LEAST_CPU", 2 * together)
    assert plan(1 << 34, monkeypatch).token_budget == together


def test_short_pairs_take_no_more_at_once_than_the_longest_in_two_plain_rows(monkeypatch):
    longest = max(2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in random_pairs(60))
    assert longest < scorer().packing(random_pairs(60)).together()
    monkeypatch.setattr(memory_plan, "LEAST_CPU", 1)
    assert plan(1 << 34, monkeypatch).token_budget == longest


def test_less_memory_gives_a_smaller_budget_then_recomputed_activations_then_a_warning(monkeypatch):
    full = plan(1 << 34, monkeypatch)
    fixed = full.gradients + full.optimizer + (2 << 16)
    per_token = full.activations / full.token_budget
    smaller = plan(int((fixed + 200 * per_token) / memory_plan.HEADROOM), monkeypatch)
    assert 150 < smaller.token_budget <= 200 and not smaller.checkpointing
    said: list[str] = []
    scarce = plan(int((fixed + 30 * per_token) / memory_plan.HEADROOM), monkeypatch, said)
    assert scarce.checkpointing
    said.clear()
    plan(0, monkeypatch, said)
    assert "Memory is short" in said[0]


def test_a_budget_that_was_asked_for_is_kept(monkeypatch):
    assert plan(1 << 34, monkeypatch, token_budget=77).token_budget == 77


def test_recomputing_keeps_less_of_the_forward():
    measured, pair = scorer(num_hidden_layers=6), random_pairs(0, lengths=[(40, 20, 20)])[0]
    before = activation_bytes(measured, pair, checkpointing=False)
    assert activation_bytes(measured, pair, checkpointing=True) < 0.7 * before
    assert activation_bytes(measured, pair, checkpointing=False) == pytest.approx(before, rel=0.05)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("5000000\n")
    used.write_text("2000000\n")
    monkeypatch.setattr(memory, "CGROUP_FILES", ((str(limit), str(used)),))
    assert memory.memory_available(torch.device("cpu")) == 3_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.memory_available(torch.device("cpu")) == 1_000_000, "three processes share what the machine has"
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    limit.write_text("max\n")
    assert memory.memory_available(torch.device("cpu")) > 3_000_000


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            ),
            True,
        ),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(problem, expected):
    assert is_out_of_memory(problem) == expected


def limit_tokens(monkeypatch, most: int) -> None:
    """A machine on which a training forward of more than `most` tokens runs out of memory."""
    real = PairScorer.forward

    def forward(self, rows):
        if rows.tokens > most and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, rows)

    monkeypatch.setattr(PairScorer, "forward", forward)


def test_running_out_halves_the_budget_and_trains_the_same(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    settings = ["max_steps=4", "lora_dropout=0", "token_budget=1000"]
    expected = [
        event["loss"] for event in events_of(engine(*train_arguments(files, tmp_path / "a", *settings))[1], "step")
    ]
    # More than what the check at the start and the estimate run.
    limit_tokens(monkeypatch, 300)
    code, events = engine(*train_arguments(files, tmp_path / "b", *settings))
    assert code == 0
    warnings = [event["message"] for event in events_of(events, "log") if event.get("level") == "warning"]
    assert warnings[0] == "Memory ran out: 500 tokens in a forward instead of 1000."
    assert [event["loss"] for event in events_of(events, "step")] == pytest.approx(expected, rel=1e-5)


def test_when_no_budget_is_small_enough_the_run_says_so_with_its_code(tmp_path, engine, monkeypatch):
    from worker.dpo.run import loop

    files = run_folder(tmp_path)

    def fails(run):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "optimizer_step", fails)
    code, events = engine(*train_arguments(files, tmp_path / "out"))
    assert code == 4
    assert events[-1]["reason"] == "out_of_memory"
    assert "Lower max_length" in events[-1]["message"]


MODELS = {
    "wide": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "deep": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 6,
        "vocab_size": 30000,
    },
}


# One of each kind now, the others by `make test-long`.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lora_r", "checkpointing"),
    [
        pytest.param(
            name,
            16 if how == "lora" else 0,
            "on" if kept == "recomputed" else "off",
            id=f"{name}-{how}-{kept}",
            marks=[]
            if (name, how, kept) in {("wide", "lora", "kept"), ("deep", "full", "recomputed")}
            else pytest.mark.long,
        )
        for name in MODELS
        for how in ("lora", "full")
        for kept in ("kept", "recomputed")
    ],
)
def test_the_estimate_is_within_three_tenths_of_the_measured_peak(name, lora_r, checkpointing, tmp_path):
    files = run_folder(tmp_path, pairs=32)
    files["model"] = save_tiny(tmp_path / "large", **MODELS[name])
    settings = [
        f"lora_r={lora_r}",
        "batch_size=16",
        "max_steps=2",
        "token_budget=1500",
        "pair_order=position",
        "dtype=float32",
        f"gradient_checkpointing={checkpointing}",
    ]
    arguments = train_arguments(files, tmp_path / "out", *settings)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-m", "worker.dpo", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    (estimate,) = [event["peak_bytes"] for event in events if "peak_bytes" in event]
    measured = json.loads((tmp_path / "out" / "prefloop.json").read_text())["peak_memory_bytes"]
    assert estimate == pytest.approx(measured, rel=0.3), [event for event in events if "peak_bytes" in event]
