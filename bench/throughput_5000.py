"""How long 5,000 pairs take: a real training run on fewer pairs, extrapolated.

    python -m bench.throughput_5000 --model MODEL_FOLDER [--pairs 500] [--target 5000] [--set key=value …]

Runs `python -m worker.dpo train` as anyone would, reads the time of each stage off its events, and scales those that
grow with the pairs (reference and training). Loading and exporting count once. Writes OUT.json and OUT.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.machine import HH_FILE, choose_pairs, machine_facts, mean_tokens, publish, write_rows

GROWS = ("reference", "training")


def main() -> None:
    args = arguments()
    rows = choose_pairs(args.data, args.model, count=args.pairs)
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(Path(folder) / "train.jsonl", rows)
        events = train(args, data, Path(folder))
        lengths = mean_tokens(data, args.model)
    result = measure(events, pairs=args.pairs, target=args.target) | {
        "model": Path(args.model).name,
        "data": args.data.name,
        "mean_tokens": lengths,
        "settings": args.settings,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "machine": machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--pairs", type=int, default=500, help="pairs that are really trained on")
    parser.add_argument("--target", type=int, default=5000, help="pairs to extrapolate to")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("bench/results/throughput_5000"))
    return parser.parse_args()


def train(args: argparse.Namespace, data: Path, folder: Path) -> list[dict[str, Any]]:
    """The events of one run, its reference cache empty so that the reference pass counts."""
    settings = [f"reference_cache={folder / 'reference'}", "sample_prompts=0", *args.settings]
    command = [
        sys.executable,
        "-m",
        "worker.dpo",
        "train",
        "--model",
        args.model,
        "--data",
        str(data),
        "--out",
        str(folder / "out"),
    ]
    for setting in settings:
        command += ["--set", setting]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode:
        raise SystemExit(f"The run ended with {run.returncode}: {events[-1] if events else 'no event'}")
    return events


def measure(events: list[dict[str, Any]], *, pairs: int, target: int) -> dict[str, Any]:
    """Seconds of each stage, and of all of them at `target` pairs."""
    marks = [event for event in events if event["event"] in ("state", "done")]
    stages: dict[str, float] = {}
    for begin, end in pairwise(marks):
        if begin["event"] == "state":
            stages[begin["stage"]] = stages.get(begin["stage"], 0.0) + end["time"] - begin["time"]
    grows = sum(stages.get(stage, 0.0) for stage in GROWS)
    fixed = sum(stages.values()) - grows
    return {
        "pairs": pairs,
        "target": target,
        "stage_seconds": {stage: round(seconds, 1) for stage, seconds in stages.items()},
        "pairs_per_second": round(pairs / grows, 3),
        "pairs_per_second_without_reference": round(pairs / stages["training"], 3),
        "target_minutes": round((fixed + grows * target / pairs) / 60, 1),
    }


def report(result: dict[str, Any]) -> str:
    machine = result["machine"]
    stages = ", ".join(f"{stage} {seconds} s" for stage, seconds in result["stage_seconds"].items())
    tokens = ", ".join(f"{name} {length}" for name, length in result["mean_tokens"].items()) + " tokens on average"
    return f"""## {result["target"]} pairs, from {result["pairs"]} measured

{machine["processor"]}, {machine["cores"]} cores, {machine["memory_gb"]} GB; torch {machine["torch"]}; {result["model"]},
{result["data"]}, {tokens}; settings: {", ".join(result["settings"]) or "defaults"}

| | |
|---|---|
| pairs/s, reference pass counted | {result["pairs_per_second"]} |
| pairs/s, training alone | {result["pairs_per_second_without_reference"]} |
| peak resident memory | {result["peak_memory_gb"]} GB |
| stages | {stages} |
| **{result["target"]} pairs, extrapolated** | **{result["target_minutes"]} minutes** |
"""


if __name__ == "__main__":
    main()
