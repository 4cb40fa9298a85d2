"""Is the result as good as TRL's? Both trainers, the same pairs and hyper-parameters, several seeds.

    python -m bench.quality_vs_trl --model MODEL_FOLDER [--pairs 500] [--eval-pairs 500] [--seeds 1 2 3]
    python -m bench.quality_vs_trl --model MODEL_FOLDER --turns 1                      # each prompt's last message only
    python -m bench.quality_vs_trl --model MODEL_FOLDER --data demo.jsonl --pairs 30 --eval-pairs 6 --batch-size 4
    python -m bench.quality_vs_trl --model MODEL_FOLDER --turns 1 --dtype bfloat16 --seeds 1 2 3 4 5 \
        --trainers prefloop-paired prefloop-float32 --baseline prefloop-float32          # what bfloat16 costs

Each trainer runs in a process of its own. The adapters are then measured by the same program (`python -m worker.dpo
score`) on the same held-out pairs, so that only training can make a difference. Accuracy, margin and loss come with
95 % confidence intervals over the seeds (Student's t), and the difference with one over the seeds' pairwise
differences.

Even with one seed each draws an adapter to start from and an order of the pairs of its own; `prefloop-paired` is Prefloop
from TRL's start and in TRL's order, which leaves nothing to chance. `prefloop-float32` is the same in float32, whatever
--dtype says.

Each run is kept in OUT.runs.jsonl: an interrupted comparison goes on where it stopped, and several at once may fill one
file with `--seeds` and `--trainers` of their own; the last one, that finds Prefloop and TRL done, writes OUT.json and OUT.md.
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
from worker.dpo.rows.plan import make_plan

METRICS = ("accuracy", "margin", "loss")
TRAINERS = ("prefloop", "prefloop-paired", "prefloop-float32", "trl")


def main() -> None:
    args = arguments()
    if args.child:
        train_with_trl(json.loads(args.child))
        return
    rows = choose_pairs(
        args.data, args.model, count=args.pairs + args.eval_pairs, max_length=args.max_length, turns=args.turns
    )
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
                if trainer not in args.trainers or any(
                    run["trainer"] == trainer and run["seed"] == seed for run in runs
                ):
                    continue
                out = folder / f"{trainer}-{seed}"
                WAYS[trainer](args, train, out, seed)
                runs.append({"trainer": trainer, "seed": seed} | score(args, held_out, out))
                with kept.open("a") as file:
                    file.write(json.dumps(runs[-1] | {"settings": settings(args)}) + "\n")
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    if any(sum(run["trainer"] == trainer for run in runs) < len(args.seeds) for trainer in args.trainers):
        return
    result = {
        "runs": runs,
        "baseline": args.baseline,
        "summary": summarise(runs, args.baseline),
        "settings": settings(args),
        "machine": machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the base model", required="--child" not in sys.argv)
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--pairs", type=int, default=500, help="pairs to train on")
    parser.add_argument("--eval-pairs", type=int, default=500, help="pairs held out, none of them trained on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument(
        "--baseline", choices=TRAINERS, default="trl", help="the trainer that the others are compared with"
    )
    parser.add_argument("--turns", type=int, help="messages that a prompt keeps, from its end (default: all)")
    parser.add_argument(
        "--steps", type=int, default=-1, help="optimizer steps (default: one epoch; the paired runs need that)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="pairs per optimizer step")
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, help="high enough that few steps show (default 1e-4)"
    )
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512, help="longest pair taken, in tokens")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality_vs_trl"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    names = (
        "pairs",
        "eval_pairs",
        "seeds",
        "turns",
        "steps",
        "batch_size",
        "learning_rate",
        "beta",
        "lora_r",
        "max_length",
        "dtype",
    )
    return {"model": Path(args.model).name, "data": args.data.name} | {name: getattr(args, name) for name in names}


def earlier_runs(kept: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of an interrupted comparison with the same settings, but for the list of seeds."""
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    same = [run for run in runs if run.pop("settings") | {"seeds": 0} == wanted | {"seeds": 0}]
    return [run for run in same if run["seed"] in wanted["seeds"]]


def prefloop(
    args: argparse.Namespace,
    train: Path,
    out: Path,
    seed: int,
    *,
    adapter: Path | None = None,
    dtype: str | None = None,
) -> None:
    """Train with Prefloop, a new adapter or a given one. dtype: the arguments' where it is None."""
    given = {
        "seed": seed,
        "max_steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "beta": args.beta,
        "lora_r": args.lora_r,
        "lora_alpha": 2 * args.lora_r,
        "max_length": args.max_length,
        "dtype": dtype or args.dtype,
        "sample_prompts": 0,
        "reference_cache": str(out.parent / "reference"),
    }
    command = [sys.executable, "-m", "worker.dpo", "train", "--model", args.model, "--data", str(train)]
    command += ["--out", str(out)]
    for key, value in given.items() if adapter is None else (given | {"adapter": adapter}).items():
        command += ["--set", f"{key}={value}"]
    output_of(command)


def prefloop_paired(args: argparse.Namespace, train: Path, out: Path, seed: int, *, dtype: str | None = None) -> None:
    """Train with Prefloop from the adapter that TRL starts from with this seed, and in TRL's order."""
    if args.steps > 0:
        raise SystemExit("prefloop-paired takes one epoch: leave --steps out, or name the other --trainers.")
    start = out.with_name(f"start-{seed}")
    if not (start / "order.json").exists():
        trl(args, train, start, seed, start_only=True)
    rows, theirs = train.read_text().splitlines(), json.loads((start / "order.json").read_text())
    plan = make_plan(len(rows), batch_size=args.batch_size, seed=seed, epochs=1)
    ours = [index for step in range(plan.total_steps) for index in plan.batch(step)]
    # The file is in such an order that Prefloop's own plan for this seed takes the pairs as TRL does.
    rows_by_place = dict(zip(ours, theirs, strict=True))
    ordered = train.with_name(f"train-{seed}.jsonl")
    ordered.write_text("".join(rows[rows_by_place[place]] + "\n" for place in range(len(rows))))
    prefloop(args, ordered, out, seed, adapter=start, dtype=dtype)


def prefloop_float32(args: argparse.Namespace, train: Path, out: Path, seed: int) -> None:
    """`prefloop_paired` in float32: what another type is compared with."""
    prefloop_paired(args, train, out, seed, dtype="float32")


def trl(args: argparse.Namespace, train: Path, out: Path, seed: int, *, start_only: bool = False) -> None:
    """Train with TRL in a process of its own; start_only: leave only the adapter it starts from and the order it takes."""
    given = settings(args) | {
        "model": args.model,
        "train": str(train),
        "out": str(out),
        "seed": seed,
        "start_only": start_only,
    }
    environment = os.environ | {"HF_HOME": str(out.parent / "huggingface")}
    output_of([sys.executable, "-m", "bench.quality_vs_trl", "--child", json.dumps(given)], environment)


WAYS = {"prefloop": prefloop, "prefloop-paired": prefloop_paired, "prefloop-float32": prefloop_float32, "trl": trl}


def train_with_trl(given: dict[str, Any]) -> None:
    """The child process: train and save, or only leave the start."""
    trainer = trl_trainer(given)
    if given["start_only"]:
        leave_start(trainer, Path(given["out"]))
        return
    trainer.train()
    trainer.save_model(given["out"])


def trl_trainer(given: dict[str, Any]) -> Any:
    """DPOTrainer with the same hyper-parameters, a pair at a time; all else is as TRL has it."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
    from trl.trainer import dpo_trainer

    # The reference is the model without its new adapter, the same for every seed; TRL's key for it has the adapter in it.
    dpo_trainer.hash_module = lambda module: "base"
    return DPOTrainer(
        model=given["model"],
        args=DPOConfig(
            output_dir=given["out"],
            model_init_kwargs={"dtype": given["dtype"]},
            per_device_train_batch_size=1,
            gradient_accumulation_steps=given["batch_size"],
            precompute_ref_log_probs=not given["start_only"],
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
        peft_config=LoraConfig(
            r=given["lora_r"], lora_alpha=2 * given["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )


def leave_start(trainer: Any, out: Path) -> None:
    """Save the adapter that training starts from and the order in which it takes the pairs, without training."""
    trainer.save_model(out)
    places: dict[str, list[int]] = {}
    for place, row in enumerate(trainer.train_dataset):
        places.setdefault(tokens_of(row), []).append(place)
    order: list[int] = []
    collate = trainer.data_collator

    def note(rows: list[dict[str, Any]]) -> Any:
        order.extend(places[tokens_of(row)].pop() for row in rows)
        return collate(rows)

    def no_loss(model: Any, inputs: Any, **options: Any) -> Any:
        return sum((weight * 0).sum() for weight in model.parameters() if weight.requires_grad)

    trainer.data_collator, trainer.compute_loss = note, no_loss
    trainer.train()
    (out / "order.json").write_text(json.dumps(order))


def tokens_of(row: dict[str, Any]) -> str:
    return json.dumps([list(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")])


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
        raise SystemExit(
            f"{' '.join(command)}\nended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        )
    return run.stdout


def summarise(runs: list[dict[str, Any]], baseline: str) -> dict[str, Any]:
    """By metric and trainer: mean and 95 % interval, and those of the difference to the baseline, seed by seed."""
    summary: dict[str, Any] = {}
    for metric in METRICS:
        by = {trainer: {run["seed"]: run[metric] for run in runs if run["trainer"] == trainer} for trainer in TRAINERS}
        summary[metric] = {
            trainer: {
                "value": interval(list(values.values())),
                "difference": interval([values[seed] - by[baseline][seed] for seed in values]),
            }
            for trainer, values in by.items()
            if values
        }
    return summary


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean with Student's 95 % interval; without a second seed there is none."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


NAMES = {
    "prefloop": "Prefloop",
    "prefloop-paired": "Prefloop, TRL's start and order",
    "prefloop-float32": "Prefloop in float32, TRL's start and order",
    "trl": "TRL",
}


def report(result: dict[str, Any]) -> str:
    given, machine = result["settings"], result["machine"]
    turns = f" (the last {given['turns']} message of each prompt)" if given["turns"] else ""
    baseline = result["baseline"]
    ours = [name for name in NAMES if name in result["summary"]["loss"] and name != baseline]
    rows = [
        f"| {metric} | {shown(interval[baseline]['value'])} | "
        + " | ".join(
            f"{shown(interval[name]['value'])} | {shown(interval[name]['difference'])} {verdict(interval[name]['difference'])}"
            for name in ours
        )
        + " |"
        for metric, interval in result["summary"].items()
    ]
    head = f"| held-out | {NAMES[baseline]} | " + " | ".join(f"{NAMES[name]} | difference" for name in ours) + " |"
    table = "\n".join([head, "|---" * (2 + 2 * len(ours)) + "|", *rows])
    return f"""## Quality against TRL {machine["trl"]}

{given["model"]}, {given["pairs"]} pairs of {given["data"]}{turns}, {given["eval_pairs"]} held out, seeds {given["seeds"]}, LoRA r{given["lora_r"]},
{given["dtype"]}, β {given["beta"]}, learning rate {given["learning_rate"]:g}, batch {given["batch_size"]}; mean [95 % interval over seeds]

{table}
"""


def shown(interval: dict[str, float | None]) -> str:
    if interval["low"] is None or interval["high"] is None:
        return f"{interval['mean']:.5f}"
    return f"{interval['mean']:.5f} [{interval['low']:.5f}, {interval['high']:.5f}]"


def verdict(difference: dict[str, float | None]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "(one seed: no interval)"
    return "(equal within the interval)" if low <= 0 <= high else "(different)"


if __name__ == "__main__":
    main()
