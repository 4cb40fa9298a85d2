"""A training step on cores that other programs want too: the engine's own choice of threads against fixed numbers.

    python -m bench.busy_machine --model MODEL_FOLDER [--tokens 384] [--steps 10] [--only auto 1 2 …]

Alone, beside one and beside two programs that never wait, at the same niceness. A step is one micro-batch forward and
backward, and forward again as the reference pass does. `auto` does as many as --steps beside each, and its steps that try another
number count; fixed numbers do three, and three more with threads that wait as PyTorch has them, spinning long. Each setting is a process
of its own, and goes through the three in order. It takes about four minutes on two cores; `--only` measures some settings and keeps
the others of OUT.json. Writes OUT.json and OUT.md.
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

from worker.dpo.machine.threads import Threads, spin_briefly, usable_cores

BESIDE = {"alone": 0, "beside one": 1, "beside two": 2}
LONG_SPINS = "as PyTorch waits"
FIXED_STEPS = 3


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(measure(args)))
        return
    from bench.machine import machine_facts, publish

    cores = os.cpu_count() or 1
    waits_long = f"{cores}, {LONG_SPINS}"
    settings = ["auto", *(str(count) for count in sorted({1, max(1, cores - 1), cores})), waits_long]
    kept = args.out.with_suffix(".json")
    earlier = json.loads(kept.read_text()) if args.only and kept.exists() else {}
    seconds = earlier["seconds"] if earlier.get("tokens") == args.tokens else {}
    # An empty value is no number, and PyTorch's OpenMP falls back to its own.
    environments = {waits_long: {"GOMP_SPINCOUNT": ""}}
    environments |= {f"{cores}, {spins} looks": {"GOMP_SPINCOUNT": str(spins)} for spins in args.spins}
    for setting in dict.fromkeys([*settings, *environments]):
        if not args.only or setting in args.only or (setting in environments and setting != waits_long):
            seconds[setting] = child(setting.partition(",")[0], environments.get(setting, {}))
    machine = machine_facts()
    publish(args.out, {"seconds": seconds, "tokens": args.tokens, "machine": machine}, report(seconds, machine))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokens", type=int, default=384, help="tokens of the micro-batch, at most")
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="steps of auto beside each number of programs")
    parser.add_argument("--only", nargs="+", default=[], help="settings to measure, as the table names them")
    parser.add_argument(
        "--spins", nargs="+", type=int, default=[], help="how often waiting threads look, to be compared too"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/busy_machine"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(setting: str, environment: dict[str, str]) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "bench.busy_machine", "--child", setting, *sys.argv[1:]],
        env=clean | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(setting, environment, result, file=sys.stderr, flush=True)
    return result


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many programs beside this one that never wait."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Mean seconds of a step beside each number of programs, and the threads that were used."""
    spin_briefly()
    import torch

    from bench.machine import HH_FILE
    from bench.step_profile import load
    from worker.dpo.ground.memory import keep_freed_memory

    keep_freed_memory()
    args.data = args.data or HH_FILE
    scorer, pairs = load(args, "float32")
    rows = scorer.rows(pairs)

    def step() -> None:
        logps = scorer(rows)
        (logps[0] - logps[1]).sum().backward()
        with torch.no_grad():
            scorer(rows)

    cores = usable_cores()
    threads = Threads(args.child, most=cores, set_count=torch.set_num_threads, original=cores)
    step()
    seconds: dict[str, Any] = {}
    number = 0
    for name, count in BESIDE.items():
        with busy_programs(count):
            steps = args.steps if args.child == "auto" else FIXED_STEPS
            started = time.perf_counter()
            for _ in range(steps):
                number += 1
                threads.before("training", number)
                step()
                threads.after(1.0)
            seconds[name] = round((time.perf_counter() - started) / steps, 3)
    return seconds | {"threads": threads.record}


def report(seconds: dict[str, dict[str, Any]], machine: dict[str, Any]) -> str:
    lines = ["| threads | " + " | ".join(BESIDE) + " |", "|---" * (1 + len(BESIDE)) + "|"]
    lines += [
        f"| {setting} | " + " | ".join(f"{times[name]:.2f}" for name in BESIDE) + " |"
        for setting, times in seconds.items()
    ]
    fixed = [times for setting, times in seconds.items() if setting != "auto"]
    if fixed and "auto" in seconds:
        ratios = [seconds["auto"][name] / min(times[name] for times in fixed) for name in BESIDE]
        lines.append("| auto, of the best fixed number | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
        lines += ["", f"Seconds a step. What auto used: {seconds['auto']['threads']}."]
    return "\n".join([*lines, f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}.", ""])


if __name__ == "__main__":
    main()
