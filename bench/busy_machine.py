"""A training step on cores that other programs want too, with threads that spin, that sleep, and with fewer threads.

    python -m bench.busy_machine --model MODEL_FOLDER [--tokens 1024] [--repeats 3]

Each setting is timed in a process of its own, alone and beside one program that keeps a core busy: seconds of one
micro-batch forward and backward, and forward again as the reference pass does. Writes OUT.json and OUT.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.machine import HH_FILE, machine_facts, publish
from bench.step_profile import load
from worker.dpo.ground.memory import keep_freed_memory

SETTINGS: dict[str, dict[str, str]] = {
    "as it is: a thread for each core": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))},
}


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(seconds(args)))
        return
    rates: dict[str, dict[str, float]] = {}
    for name, environment in SETTINGS.items():
        alone = child(environment)
        with busy_core():
            rates[name] = {"alone": alone, "beside": child(environment)}
    machine = machine_facts()
    publish(args.out, {"seconds": rates, "tokens": args.tokens, "machine": machine}, report(rates, machine))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the micro-batch, at most")
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds, the median counts")
    parser.add_argument("--out", type=Path, default=Path("bench/results/busy_machine"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(environment: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.busy_machine", "--child", *sys.argv[1:]],
        env={name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


@contextmanager
def busy_core() -> Iterator[None]:
    """A program beside this one that never waits."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def seconds(args: argparse.Namespace) -> float:
    keep_freed_memory()
    scorer, pairs = load(args, "float32")
    rows = scorer.rows(pairs)

    def round_() -> None:
        logps = scorer(rows)
        (logps[0] - logps[1]).sum().backward()
        with torch.no_grad():
            scorer(rows)

    round_()
    times = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        round_()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def report(rates: dict[str, dict[str, float]], machine: dict[str, Any]) -> str:
    lines = ["| | alone, seconds | beside a busy program, seconds |", "|---|---|---|"]
    lines += [f"| {name} | {times['alone']:.2f} | {times['beside']:.2f} |" for name, times in rates.items()]
    return "\n".join([*lines, "", f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}.", ""])


if __name__ == "__main__":
    main()
