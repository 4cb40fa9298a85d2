"""Is the result as good as TRL's? Both trainers, the same pairs and hyper-parameters, several seeds.

    python -m bench.quality_vs_trl --model MODEL_FOLDER [--pairs 500] [--eval-pairs 500] [--seeds 1 2 3]
    python -m bench.quality_vs_trl --model MODEL_FOLDER --turns 1                      # each prompt's last message only
    python -m bench.quality_vs_trl --model MODEL_FOLDER --data demo.jsonl --pairs 30 --eval-pairs 6 --batch-size 4

Each trainer runs in a process of its own. Both adapters are then measured by the same program (`python -m worker.dpo
score`) on the same held-out pairs, so that only training can make a difference. Accuracy, margin and loss come with
95 % confidence intervals over the seeds (Student's t), and the difference with one over the seeds' pairwise
differences. Each run is kept in OUT.runs.jsonl: an interrupted comparison goes on where it stopped, and several at once may
fill one file with `--seeds` and `--trainers` of their own; the last one, that finds all runs done, writes OUT.json and OUT.md.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from bench.machine import HH_FILE, choose_pairs, machine_facts, publish, write_rows

METRICS = ("accuracy", "margin", "loss")
TRAINERS = ("prefloop", "trl")


def main() -> None:
    args = arguments()
    if args.child:
        train_with_trl(json.loads(args.child))
        return
    rows = choose_pairs(args.data, args.model, count=args.pairs + args.eval_pairs, max_length=args.max_length, turns=args.turns)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = args.out.with_suffix(".runs.jsonl")
    runs = earlier_runs(kept, settings(args))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = write_rows(folder / "train.jsonl", rows[: args.pairs])
        held_out = write_rows(folder / "eval.jsonl", rows[args.pairs :])
        for seed in args.seeds:
            # Turn about, so that neither always runs on a warmer machine.
            for trainer in TRAINERS if seed % 2 else reversed(TRAINERS):
                if trainer not in args.trainers or any(run["trainer"] == trainer and run["seed"] == seed for run in runs):
                    continue
                out = folder / f"{trainer}-{seed}"
                (prefloop if trainer == "prefloop" else trl)(args, train, out, seed)
                runs.append({"trainer": trainer, "seed": seed} | score(args, held_out, out))
                with kept.open("a") as file:
                    file.write(json.dumps(runs[-1] | {"settings": settings(args)}) + "\n")
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    if len(runs) < len(args.seeds) * len(TRAINERS):
        return
    result = {"runs": runs, "summary": summarise(runs), "settings": settings(args), "machine": machine_facts()}
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the base model", required="--child" not in sys.argv)
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--pairs", type=int, default=500, help="pairs to train on")
    parser.add_argument("--eval-pairs", type=int, default=500, help="pairs held out, none of them trained on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--turns", type=int, help="messages that a prompt keeps, from its end (default: all)")
    parser.add_argument("--steps", type=int, default=-1, help="optimizer steps (default: one epoch)")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs per optimizer step")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="high enough that few steps show (default 1e-4)")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512, help="longest pair taken, in tokens")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality_vs_trl"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("pairs", "eval_pairs", "seeds", "turns", "steps", "batch_size", "learning_rate", "beta", "lora_r", "max_length", "dtype")
    return {"model": Path(args.model).name, "data": args.data.name} | {name: getattr(args, name) for name in names}


def earlier_runs(kept: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of an interrupted comparison with the same settings, but for the list of seeds."""
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    same = [run for run in runs if run.pop("settings") | {"seeds": 0} == wanted | {"seeds": 0}]
    return [run for run in same if run["seed"] in wanted["seeds"]]


def prefloop(args: argparse.Namespace, train: Path, out: Path, seed: int) -> None:
    """Train with Prefloop."""
    given = {
        "seed": seed,
        "max_steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "beta": args.beta,
        "lora_r": args.lora_r,
        "lora_alpha": 2 * args.lora_r,
        "max_length": args.max_length,
        "dtype": args.dtype,
        "sample_prompts": 0,
        "reference_cache": str(out.parent / "reference"),
    }
    command = [sys.executable, "-m", "worker.dpo", "train", "--model", args.model, "--data", str(train)]
    command += ["--out", str(out)]
    for key, value in given.items():
        command += ["--set", f"{key}={value}"]
    output_of(command)


def trl(args: argparse.Namespace, train: Path, out: Path, seed: int) -> None:
    """Train with TRL in a process of its own."""
    given = settings(args) | {"model": args.model, "train": str(train), "out": str(out), "seed": seed}
    environment = os.environ | {"HF_HOME": str(out.parent / "huggingface")}
    output_of([sys.executable, "-m", "bench.quality_vs_trl", "--child", json.dumps(given)], environment)


def train_with_trl(given: dict[str, Any]) -> None:
    """The child process: DPOTrainer with the same hyper-parameters, a pair at a time; all else is as TRL has it."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
    from trl.trainer import dpo_trainer

    # The reference is the model without its new adapter, the same for every seed; TRL's key for it has the adapter in it.
    dpo_trainer.hash_module = lambda module: "base"
    trainer = DPOTrainer(
        model=given["model"],
        args=DPOConfig(
            output_dir=given["out"],
            model_init_kwargs={"dtype": given["dtype"]},
            per_device_train_batch_size=1,
            gradient_accumulation_steps=given["batch_size"],
            precompute_ref_log_probs=True,
            learning_rate=given["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=warmup_steps(given),
            num_train_epochs=1,
            max_steps=given["steps"],
            max_length=given["max_length"],
            beta=given["beta"],
            max_grad_norm=1.0,
            seed=given["seed"],
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=given["train"], split="train"),
        peft_config=LoraConfig(r=given["lora_r"], lora_alpha=2 * given["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(given["out"])


def warmup_steps(given: dict[str, Any]) -> int:
    """A tenth of the steps, Prefloop's default."""
    steps = given["steps"] if given["steps"] > 0 else math.ceil(given["pairs"] / given["batch_size"])
    return math.ceil(0.1 * steps)


def score(args: argparse.Namespace, held_out: Path, adapter: Path) -> dict[str, float]:
    """Accuracy, margin and loss of an adapter on the held-out pairs, in float32 whatever it was trained in."""
    command = [sys.executable, "-m", "worker.dpo", "score", "--model", args.model, "--adapter", str(adapter)]
    command += ["--data", str(held_out), "--beta", str(args.beta)]
    pairs = [json.loads(line) for line in output_of(command).splitlines()]
    margins = [pair["reward_chosen"] - pair["reward_rejected"] for pair in pairs]
    return {
        "accuracy": statistics.fmean(margin > 0 for margin in margins),
        "margin": statistics.fmean(margins),
        "loss": statistics.fmean(math.log1p(math.exp(-margin)) for margin in margins),
    }


def output_of(command: list[str], environment: dict[str, str] | None = None) -> str:
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    return run.stdout


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % interval of each metric for each trainer and for their difference, seed by seed."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        by = {trainer: {run["seed"]: run[metric] for run in runs if run["trainer"] == trainer} for trainer in TRAINERS}
        differences = [by["prefloop"][seed] - by["trl"][seed] for seed in by["prefloop"]]
        found[metric] = {trainer: interval(list(by[trainer].values())) for trainer in TRAINERS}
        found[metric]["difference"] = interval(differences)
    return found


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean with Student's 95 % interval; without a second seed there is none."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def report(result: dict[str, Any]) -> str:
    given, machine = result["settings"], result["machine"]
    turns = f" (the last {given['turns']} message of each prompt)" if given["turns"] else ""
    rows = [
        f"| {metric} | {' | '.join(shown(result['summary'][metric][name]) for name in (*TRAINERS, 'difference'))} | "
        f"{verdict(result['summary'][metric]['difference'])} |"
        for metric in METRICS
    ]
    table = "\n".join(["| held-out | Prefloop | TRL | difference | |", "|---|---|---|---|---|", *rows])
    return f"""## Quality against TRL {machine["trl"]}

{given["model"]}, {given["pairs"]} pairs of {given["data"]}{turns}, {given["eval_pairs"]} held out, seeds {given["seeds"]}, LoRA r{given["lora_r"]},
{given["dtype"]}, β {given["beta"]}, learning rate {given["learning_rate"]:g}, batch {given["batch_size"]}; mean [95 % interval over seeds]

{table}
"""


def shown(found: dict[str, float | None]) -> str:
    if found["low"] is None or found["high"] is None:
        return f"{found['mean']:.4f}"
    return f"{found['mean']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"


def verdict(difference: dict[str, float | None]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "one seed: no interval"
    return "equal within the interval" if low <= 0 <= high else "different"


if __name__ == "__main__":
    main()
