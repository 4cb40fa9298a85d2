"""What a figure was measured on, and the pairs that it was measured with."""

import json
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoTokenizer

from app.paths import ROOT
from worker.dpo.data import chat
from worker.dpo.data.pairs import pair_length
from worker.dpo.data.reading import load_dataset, read_pairs

HH_FILE = ROOT.parent / "shared" / "data" / "hh-harmless-1.jsonl.gz"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def choose_pairs(
    data: Path, model: str, *, count: int, max_length: int | None = None, turns: int | None = None, seed: int = 0
) -> list[dict]:
    """`count` rows of a preference file, drawn at random; with `max_length`, of those that fit in so many tokens.

    turns: messages that a prompt keeps, from its end. Within `max_length` none of them needs truncation, and every trainer
    sees the same tokens. Raises SystemExit when there are too few.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat.ensure_template(tokenizer)
    pairs = list(read_pairs(data, on_problem=lambda problem: None))
    random.Random(seed).shuffle(pairs)
    rows = []
    for pair in pairs:
        if len(rows) == count:
            break
        pair = replace(pair, prompt=pair.prompt[-turns:]) if turns else pair
        if max_length is None or pair_length(chat.encode_with_notes(tokenizer, pair)[0]) <= max_length:
            rows.append({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected})
    if len(rows) < count:
        raise SystemExit(f"{data} has only {len(rows)} such pairs, not {count}: ask for fewer, or allow longer ones.")
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    """The rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def mean_tokens(path: Path, model: str) -> dict[str, float]:
    """Mean lengths of a preference file's prompts and answers, in tokens."""
    pairs = load_dataset(path, AutoTokenizer.from_pretrained(model), max_length=None).pairs
    sides = {"prompt": "prompt_ids", "chosen": "chosen_ids", "rejected": "rejected_ids"}
    return {name: round(fmean(len(getattr(pair, ids)) for pair in pairs), 1) for name, ids in sides.items()}


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of so many calls, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def publish(out: Path, result: dict[str, Any], text: str) -> None:
    """Write OUT.json and OUT.md and print the text."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
