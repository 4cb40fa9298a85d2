"""Runs the checks of `checks.py`, `speed.py` and `runs.py` one after the other, and goes on after a failure.

Called by `check.sh`, whose head has the options. The checks share a process, since loading PyTorch takes longer than most of
them; one that leaves the GPU unusable, or hangs, costs the process, and the next one starts in a new one. So does TRL with
Liger's kernels, which stay in transformers' classes: only such checks may follow in the same process. Every check
prints one JSON line: `check`, `ok`, `seconds`, its figures, or the end of its traceback. Writes OUT/checks.jsonl.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

# The most informative first. (section, check, seconds after which it is given up)
CHECKS = (
    ("machine", "machine", 60),
    ("machine", "product_rate", 30),
    ("speed", "engine_hh", 150),
    ("speed", "engine_hh_64", 90),
    ("profile", "profile", 60),
    ("speed", "engine_hh_fused", 60),
    ("agree", "compiled_bfloat16", 90),
    ("agree", "shared_bfloat16", 60),
    ("agree", "shared_float32", 60),
    ("attention", "attention_exact", 90),
    ("resume", "resume", 90),
    ("memory", "out_of_memory", 60),
    ("types", "types", 120),
    ("trl", "trl_losses", 90),
    ("speed", "engine_long", 90),
    ("speed", "engine_1_4", 60),
    ("speed", "engine_4_1", 60),
    ("speed", "trl_hh", 90),
    ("speed", "trl_hh_64", 90),
    ("speed", "trl_long", 120),
    ("speed", "trl_1_4", 90),
    ("speed", "trl_4_1", 90),
    ("ranks", "ranks", 120),
    ("speed", "engine_full", 90),
    ("speed", "trl_full", 120),
    ("speed", "trl_hh_plain", 90),
    ("attention", "attention_variants", 90),
    ("attention", "attention_speed", 90),
    ("pointwise", "pointwise_exact", 90),
    ("waits", "waits", 60),
    ("models", "engine_models", 120),
    ("large", "pairs_5000", 150),
)


# Checks of TRL with Liger's kernels alone.
WITH_LIGER = frozenset({"trl_hh", "trl_hh_64", "trl_long", "trl_full", "trl_1_4", "trl_4_1"})


class TooLong(BaseException):
    """A check that took longer than it may. Nothing below takes it for a failure of its own."""


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory(prefix="prefloop-gpu-") as made:
        run_all(args, made)


def run_all(args: argparse.Namespace, made: str) -> None:
    """The checks, in as many processes as it takes. made: a folder for models and data, which all of them use."""
    wanted, silent = chosen(args.sections), 0
    while wanted:
        left = args.began + args.budget - time.time()
        if left < 5:
            break
        command = [sys.executable, "-m", "bench.gpu.check", *sys.argv[1:], "--made", made, "--child", ",".join(wanted)]
        with (args.out / "errors.log").open("w+", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            try:
                done = follow(process, args, wanted)
            finally:
                process.kill()
                process.wait()
            if process.returncode not in (0, 75, -signal.SIGKILL):
                errors.seek(0)
                silent = silent + 1 if len(done) == 1 else 0
                say(args.out, {"check": "process", "ok": False, "error": errors.read()[-1500:]})
        wanted = wanted[len(done) or 1 :]
        if silent == 2:
            # Not the checks' fault: nothing here will run.
            break
    if wanted:
        say(args.out, {"check": "budget", "ok": False, "no_time_for": wanted})
    say(args.out, {"check": "end", "ok": not wanted, "seconds": round(time.time() - args.began, 1)})


def chosen(sections: list[str] | None) -> list[str]:
    """The checks of these sections, or of these names, in the order that they are named in; None: all."""
    if sections is None:
        return [name for _, name, _ in CHECKS]
    named = [name for wanted in sections for section, name, _ in CHECKS if wanted in (section, name)]
    unknown = set(sections) - {part for section, name, _ in CHECKS for part in (section, name)}
    if unknown:
        raise SystemExit(f"There is no section or check {', '.join(sorted(unknown))}.")
    return list(dict.fromkeys(named))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=lambda text: text.split(","), help="sections or checks, with commas")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy models and few pairs: to try the script itself")
    parser.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def patience(args: argparse.Namespace) -> int:
    """A CPU may take longer."""
    return 1 if args.device.startswith("cuda") else 10


def follow(process: subprocess.Popen, args: argparse.Namespace, wanted: list[str]) -> list[str]:
    """Pass on what the child prints; returns the checks that it did. Ends when it does, or when it hangs."""
    limits = {name: limit for _, name, limit in CHECKS}
    done: list[str] = []

    def give_up(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, give_up)
    assert process.stdout is not None
    while len(done) < len(wanted):
        name = wanted[len(done)]
        # The child gives up by itself; this is for a kernel that hangs and for the end of the budget.
        allowed = min(limits[name] * patience(args) + 45, args.began + args.budget - time.time())
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1.0, allowed))
            line = process.stdout.readline()
        except TooLong:
            say(args.out, {"check": name, "ok": False, "error": "hung, or the budget was at its end"})
            return [*done, name]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not line:
            if process.wait() not in (0, 75):
                say(args.out, {"check": name, "ok": False, "error": f"the process ended with {process.returncode}"})
                done.append(name)
            break
        if line.startswith('{"check"'):
            say(args.out, json.loads(line))
            done.append(name)
    return done


def child(args: argparse.Namespace) -> None:
    from bench.gpu import checks, runs, speed
    from bench.gpu.place import Place

    limits = {name: limit for _, name, limit in CHECKS}
    place = Place(device=args.device, tiny=args.tiny, shared=args.shared.resolve(), folder=args.made)

    def give_up(*_: Any) -> None:
        raise TooLong("it took longer than it may")

    signal.signal(signal.SIGALRM, give_up)
    liger = False
    for name in args.child.split(","):
        if liger and name not in WITH_LIGER:
            # 75: start a new process for the rest.
            os._exit(75)
        liger = liger or name in WITH_LIGER
        began = time.time()
        left = args.began + args.budget - began - 3
        if left < 3:
            return
        function = next(getattr(module, name) for module in (checks, runs, speed) if hasattr(module, name))
        signal.setitimer(signal.ITIMER_REAL, min(limits[name] * patience(args), left))
        try:
            facts, problem = function(place), None
        except BaseException as caught:
            facts, problem = {}, caught
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        result = {"check": name, "ok": problem is None, "seconds": round(time.time() - began, 1), **facts}
        if problem is not None:
            result["error"] = "".join(traceback.format_exception(problem))[-3000:]
        if "ok_if" in result:
            result["ok"] = problem is None and bool(result.pop("ok_if"))
        print(json.dumps(result, default=str), flush=True)
        if problem is not None and not place.usable():
            os._exit(75)
        place.tidy()


def say(out: Path, result: dict[str, Any]) -> None:
    line = json.dumps(result, default=str)
    print(line, flush=True)
    with (out / "checks.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
