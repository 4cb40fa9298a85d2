"""How fast the engine and TRL train on the same pairs, in one process, one after the other.

Both train as their users would have them train: the engine by its command line, TRL by `DPOTrainer` in the best configuration that is
found here. Counted is the median time of a step once everything is warm, the reference pass on its own, and the largest
memory that tensors took. FlashAttention isn't tried with TRL: it isn't part of PyTorch, and its padding-free rows need it.
"""

import contextlib
import io
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bench.dpo_vs_trl import work
from bench.gpu.place import Place
from worker.dpo.commands.cli import main as engine

BATCH = 16
LORA = 16


def product_rate(place: Place) -> dict[str, Any]:
    """TFLOP/s of an 8192³ product in bfloat16, on random data: the median of 20."""
    if "rate" not in place.kept:
        size = 512 if place.tiny else 8192
        left, right = (torch.randn(size, size, device=place.device, dtype=torch.bfloat16) for _ in range(2))
        place.kept["rate"] = 2 * size**3 / median_seconds(place, lambda: left @ right, repeats=20) / 1e12
    return {"tflops": round(place.kept["rate"], 3)}


def median_seconds(place: Place, call: Any, *, repeats: int) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        wait(place)
        started = time.perf_counter()
        call()
        wait(place)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def wait(place: Place) -> None:
    if place.is_gpu:
        torch.cuda.synchronize()


def engine_run(
    place: Place, shape: str, data: Path, out: Path, *, may_fail: bool = False, **settings: Any
) -> list[dict[str, Any]]:
    """The events of one run of the engine's command line, in this process, with an empty reference cache."""
    with tempfile.TemporaryDirectory() as cache:
        given = {
            "dtype": "bfloat16", "lora_r": LORA, "lora_alpha": 2 * LORA, "batch_size": BATCH, "learning_rate": 5e-6,
            "sample_prompts": 0, "report_to": "[]", "save_minutes": 0, "device": place.device, "num_workers": 1,
            "reference_cache": cache, "compile": "on",
        } | settings  # fmt: skip
        command = ["train", "--model", str(place.model(shape)), "--data", str(data), "--out", str(out)]
        command += [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = engine(command)
    events = [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("{")]
    if code and not may_fail:
        raise RuntimeError(f"the engine ended with {code}: {events[-1] if events else 'no event'}")
    return events


def engine_speed(place: Place, shape: str, kind: str, pairs: int, **settings: Any) -> dict[str, Any]:
    """Speed, memory and what the engine said of itself, on `pairs` pairs of a kind."""
    pairs = 32 if place.tiny else pairs
    data = place.data(kind, pairs)
    place.model(shape)
    started = time.time()
    if place.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as out:
        events = engine_run(place, shape, data, Path(out) / "out", **settings)
    steps = [event for event in events if event["event"] == "step"]
    states = [event for event in events if event["event"] == "state"]
    reference = next(event["time"] for event in states if event["stage"] == "reference")
    training = next(event["time"] for event in states if event["stage"] == "training")
    peak = next(event for event in events if "peak_bytes" in event)
    measured = torch.cuda.max_memory_allocated() if place.is_gpu else 0
    batch = settings.get("batch_size", BATCH)
    times = [after["time"] - before["time"] for before, after in pairwise(steps)]
    facts = speed_facts(
        place, shape, kind, pairs, batch, times, training - reference, lora_r=settings.get("lora_r", LORA)
    )
    whole, a_pair = events[-1]["time"] - started, 1 / facts["pairs_per_second_counted"]
    return facts | {
        # From the command's start to its end: so many more pairs cost what the settled steps and the reference cost.
        "whole_seconds": round(whole, 1),
        "seconds_5000": round(whole + (5000 - pairs) * a_pair, 1),
        "start_seconds": round(reference - started, 1),
        "first_step_seconds": round(steps[0]["time"] - training, 2),
        "token_budget": peak["token_budget"],
        "peak_gb": round(measured / 2**30, 2),
        "predicted_gb": round(peak["peak_bytes"] / 2**30, 2),
        "loss": [round(event["loss"], 5) for event in (steps[0], steps[-1])],
        "said": [
            f"{event['time'] - started:.1f} s: {event['message']}"
            for event in events
            if event["event"] == "log" and "line" not in event["message"]
        ],
    }


def speed_facts(
    place: Place, shape: str, kind: str, pairs: int, batch: int, times: list[float], reference: float, *, lora_r: int
) -> dict[str, Any]:
    """Rates, and the share of the measured product rate that useful work reached (`dpo_vs_trl.work`)."""
    model = str(place.model(shape))
    sizes = place.pairs(kind, pairs)
    whole = work(model, sizes, {"lora_r": lora_r, "epochs": 1})
    policy = work(model, sizes, {"lora_r": lora_r, "epochs": 10**9})["gflop_per_pair"]
    product_rate(place)
    settled = times[len(times) // 3 :]
    rate = batch / statistics.median(settled)
    counted = 1 / (1 / rate + reference / pairs)
    return {
        "shape": shape,
        "kind": kind,
        "pairs": pairs,
        "tokens_per_pair": round(whole["tokens_per_pair"], 1),
        "pairs_per_second": round(rate, 2),
        "pairs_per_second_counted": round(counted, 2),
        "reference_seconds": round(reference, 2),
        "step_ms": [round(1e3 * value, 1) for value in (min(settled), statistics.median(settled), max(settled))],
        "gflop_per_pair": round(whole["gflop_per_pair"], 1),
        "share_of_rate": round(policy * rate / 1e3 / place.kept["rate"], 4),
        "share_of_rate_counted": round(whole["gflop_per_pair"] * counted / 1e3 / place.kept["rate"], 4),
    }


def trl_run(place: Place, shape: str, data: Path, *, lora_r: int = LORA, **settings: Any) -> dict[str, Any]:
    """Times and losses of TRL's trainer."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    marks: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(place)
            marks.append(time.time())

    clock = {"reference": 0.0}
    precompute = DPOTrainer._precompute_ref_logps

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        wait(place)
        started = time.time()
        scores = precompute(self, *arguments, **options)
        wait(place)
        clock["reference"] += time.time() - started
        return scores

    DPOTrainer._precompute_ref_logps = timed
    try:
        with tempfile.TemporaryDirectory() as out:
            chosen = {
                "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
                "precompute_ref_log_probs": True, "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "sdpa"},
                "bf16": place.is_gpu, "learning_rate": 5e-6,
            } | settings  # fmt: skip
            trainer = DPOTrainer(
                model=str(place.model(shape)),
                args=DPOConfig(
                    output_dir=out,
                    use_cpu=not place.is_gpu,
                    num_train_epochs=1,
                    max_length=None,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    **({"logging_strategy": "no"} | chosen),
                ),
                train_dataset=load_dataset("json", data_files=str(data), split="train", cache_dir=out),
                peft_config=LoraConfig(
                    r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
                )
                if lora_r
                else None,
                callbacks=[Watch()],
            )
            trainer.train()
    finally:
        DPOTrainer._precompute_ref_logps = precompute
    return {"marks": marks, "reference": clock["reference"], "log": trainer.state.log_history}


def trl_speed(
    place: Place,
    kind: str,
    pairs: int,
    *,
    lora_r: int = LORA,
    batch: int = BATCH,
    at_once: tuple[int, ...],
    plain: bool = True,
) -> dict[str, Any]:
    """The best of some configurations of TRL; one that fails is named with its reason.

    batch: pairs a step. at_once: pairs in one forward, several to be tried. plain: try without Liger's head, too.
    """
    shape, pairs = "Qwen2.5-1.5B", 32 if place.tiny else pairs
    batch = min(batch, BATCH) if place.tiny else batch
    data = place.data(kind, pairs)
    tried: dict[str, Any] = {}
    for together in at_once:
        for liger in (False, True):
            if (liger and not place.is_gpu) or (not liger and not plain and place.is_gpu):
                continue
            name = f"{together} at once" + (", Liger" if liger else "")
            place.tidy()
            try:
                run = trl_run(
                    place,
                    shape,
                    data,
                    lora_r=lora_r,
                    per_device_train_batch_size=min(together, batch),
                    gradient_accumulation_steps=max(1, batch // together),
                    use_liger_kernel=liger,
                )
            except Exception as problem:
                tried[name] = f"{type(problem).__name__}: {problem}"[:300]
                continue
            times = [after - before for before, after in pairwise(run["marks"])]
            facts = speed_facts(place, shape, kind, pairs, batch, times, run["reference"], lora_r=lora_r)
            tried[name] = facts | {
                "peak_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if place.is_gpu else 0
            }
    runs = {name: facts for name, facts in tried.items() if isinstance(facts, dict)}
    if not runs:
        raise RuntimeError(f"no configuration of TRL ran: {tried}")
    best = max(runs, key=lambda name: runs[name]["pairs_per_second_counted"])
    return {"best": best, **runs[best], "tried": {name: _short(facts) for name, facts in tried.items()}}


def _short(facts: Any) -> Any:
    return facts["pairs_per_second_counted"] if isinstance(facts, dict) else facts


def engine_hh(place: Place) -> dict[str, Any]:
    return engine_speed(place, "Qwen2.5-1.5B", "hh", 500)


def trl_hh(place: Place) -> dict[str, Any]:
    return trl_speed(place, "hh", 256, at_once=(16,), plain=False)


def trl_hh_plain(place: Place) -> dict[str, Any]:
    """Without Liger's head."""
    return trl_speed(place, "hh", 128, at_once=(16,))


def engine_hh_64(place: Place) -> dict[str, Any]:
    """Four times as many pairs a step: the GPU has so much to do that the host keeps ahead of it."""
    return engine_speed(place, "Qwen2.5-1.5B", "hh", 960, batch_size=16 if place.tiny else 64)


def trl_hh_64(place: Place) -> dict[str, Any]:
    return trl_speed(place, "hh", 320, batch=64, at_once=(16,), plain=False)


def engine_hh_fused(place: Place) -> dict[str, Any]:
    """With the hand-written layers instead of the compiled ones."""
    return engine_speed(place, "Qwen2.5-1.5B", "hh", 160, compile="off")


def engine_long(place: Place) -> dict[str, Any]:
    return engine_speed(place, "Qwen2.5-1.5B", "long", 96)


def trl_long(place: Place) -> dict[str, Any]:
    return trl_speed(place, "long", 64, at_once=(4, 2), plain=False)


def engine_full(place: Place) -> dict[str, Any]:
    return engine_speed(place, "Qwen2.5-1.5B", "hh", 160, lora_r=0, learning_rate=5e-7)


def trl_full(place: Place) -> dict[str, Any]:
    return trl_speed(place, "hh", 96, lora_r=0, at_once=(16,), plain=False)


def engine_1_4(place: Place) -> dict[str, Any]:
    return engine_speed(place, "Qwen2.5-1.5B", "1:4", 256)


def trl_1_4(place: Place) -> dict[str, Any]:
    return trl_speed(place, "1:4", 128, at_once=(16,), plain=False)


def engine_4_1(place: Place) -> dict[str, Any]:
    return engine_speed(place, "Qwen2.5-1.5B", "4:1", 256)


def trl_4_1(place: Place) -> dict[str, Any]:
    return trl_speed(place, "4:1", 128, at_once=(16,), plain=False)


def engine_models(place: Place) -> dict[str, Any]:
    """Every shape once."""
    shapes = ("SmolLM2-135M", "Qwen2.5-0.5B", "Llama-3.2-1B")
    names = ("pairs_per_second", "pairs_per_second_counted", "share_of_rate", "peak_gb", "predicted_gb")
    figures = {}
    for shape in shapes:
        facts = engine_speed(place, shape, "hh", 320)
        figures[shape] = {name: facts[name] for name in names}
        place.tidy()
    return figures


def pairs_5000(place: Place) -> dict[str, Any]:
    """Seconds that 5,000 HH pairs take from the command's start to its end: 500 trained, the rest by the pair."""
    pairs = 32 if place.tiny else 500
    data = place.data("hh", pairs)
    place.model("Qwen2.5-1.5B")
    started = time.time()
    with tempfile.TemporaryDirectory() as out:
        events = engine_run(place, "Qwen2.5-1.5B", data, Path(out) / "out")
    whole = time.time() - started
    steps = [event["time"] for event in events if event["event"] == "step"]
    scoring = [event for event in events if event.get("stage") == "reference" and event.get("done")]
    # The first quarter pays for compiling.
    quarter = len(steps) // 4
    a_pair = (steps[-1] - steps[quarter]) / (BATCH * (len(steps) - 1 - quarter))
    # Its first forward too.
    scored = (scoring[-1]["time"] - scoring[0]["time"]) / max(1, pairs - scoring[0]["done"])
    return {
        "pairs": pairs,
        "seconds": round(whole, 1),
        "fixed_seconds": round(whole - pairs * (a_pair + scored), 1),
        "ms_a_pair": round(1e3 * a_pair, 3),
        "ms_a_pair_reference": round(1e3 * scored, 3),
        "seconds_5000": round(whole + (5000 - pairs) * (a_pair + scored), 1),
    }
