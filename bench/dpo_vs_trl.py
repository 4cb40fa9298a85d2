"""Speed and memory of Prefloop and TRL on the same pairs, in alternating runs, each in a process of its own.

    python -m bench.dpo_vs_trl --model MODEL_FOLDER                        # HH pairs, LoRA, float32
    python -m bench.dpo_vs_trl --model MODEL_FOLDER --pairs 8 --repeats 1 --configurations prefloop trl-tuned
    python -m bench.dpo_vs_trl --model MODEL_FOLDER --dtypes float32 bfloat16 --ratios hh 4:1 1:1 1:4 --epochs 1 3 --lora-r 16 0

Counted is the time from the first reference log-probability to the last optimizer step: loading, tokenizing and saving
are not, computing the reference is, on both sides, with every cache empty. `start` is what came before, for both.
Writes OUT.json and OUT.md and prints the table.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product as combinations
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from bench.machine import HH_FILE, choose_pairs, fastest, machine_facts, publish, write_rows
from worker.dpo.data.pairs import TokenPair
from worker.dpo.data.reading import load_dataset
from worker.dpo.ground.matmul import product

# default: as TRL is when nothing is set, but for the type. batch4: padded batches of 4, nothing recomputed.
# tuned: one pair at a time, so without padding, and the reference precomputed. All but the default take 16 pairs a step.
TRL = {
    "trl-default": {},
    "trl-batch4": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "gradient_checkpointing": False},
    "trl-tuned": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "gradient_checkpointing": False,
        "precompute_ref_log_probs": True,
    },
}
CONFIGURATIONS = ("prefloop", *TRL)
BATCH = 16
RATIO_TOKENS = 240


def main() -> None:
    args = arguments()
    if args.child:
        run_trl(json.loads(args.child))
        return
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for ratio, dtype, epochs, lora_r in combinations(args.ratios, args.dtypes, args.epochs, args.lora_r):
            case = {"ratio": ratio, "dtype": dtype, "epochs": epochs, "lora_r": lora_r}
            data = write_rows(Path(name) / f"{ratio.replace(':', '-')}.jsonl", pairs_of(args, ratio))
            lengths = lengths_of(args.model, data)
            for repeat in range(args.repeats):
                # Turn about, so that none always runs on a warmer machine.
                order = args.configurations if repeat % 2 == 0 else args.configurations[::-1]
                for configuration in order:
                    run = measure(args.model, data, configuration, case, Path(name))
                    runs.append(
                        case
                        | {"configuration": configuration, "repeat": repeat, **run, **work(args.model, lengths, case)}
                    )
                    print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        rates = {dtype: matmul_rates(args.model, getattr(torch, dtype)) for dtype in args.dtypes}
    result = {
        "runs": runs,
        "summary": summarise(runs, rates),
        "matmul_gflops": rates,
        "settings": settings(args),
        "machine": machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the base model", required="--child" not in sys.argv)
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--max-length", type=int, default=512, help="longest pair taken, in tokens")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument(
        "--ratios", nargs="+", default=["hh"], help="hh, or prompt:completion such as 4:1 (random words)"
    )
    parser.add_argument("--epochs", nargs="+", type=int, default=[1])
    parser.add_argument("--lora-r", nargs="+", type=int, default=[16], help="0: full fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("bench/results/dpo_vs_trl"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": Path(args.model).name,
        "data": args.data.name,
        "pairs": args.pairs,
        "max_length": args.max_length,
        "batch": BATCH,
    }


def pairs_of(args: argparse.Namespace, ratio: str) -> list[dict]:
    """Rows of the preference file, or of random words with prompt and answers in the given ratio of tokens."""
    if ratio == "hh":
        return choose_pairs(args.data, args.model, count=args.pairs, max_length=args.max_length)
    left, right = (int(part) for part in ratio.split(":"))
    # A pair is a prompt and two answers: RATIO_TOKENS in all, about one word a token.
    answer = RATIO_TOKENS * right // (left + 2 * right)
    prompt = RATIO_TOKENS - 2 * answer
    words, drawn = (
        ["time", "year", "way", "day", "thing", "life", "world", "school", "state", "family"],
        random.Random(0),
    )

    def message(role: str, length: int) -> list[dict]:
        return [{"role": role, "content": " ".join(drawn.choice(words) for _ in range(length))}]

    return [
        {
            "prompt": message("user", prompt),
            "chosen": message("assistant", answer),
            "rejected": message("assistant", answer),
        }
        for _ in range(args.pairs)
    ]


def lengths_of(model: str, data: Path) -> list[TokenPair]:
    return load_dataset(data, AutoTokenizer.from_pretrained(model), max_length=None).pairs


def measure(model: str, data: Path, configuration: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run in a process of its own, with caches of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        environment = os.environ | {
            "XDG_CACHE_HOME": name,
            "HF_HOME": f"{name}/hf",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if configuration == "prefloop":
            return run_prefloop(model, data, case, Path(name), environment)
        given = case | {
            "began": time.time(),
            "model": model,
            "data": str(data),
            "configuration": configuration,
            "folder": name,
        }
        output, peak = finish([sys.executable, "-m", "bench.dpo_vs_trl", "--child", json.dumps(given)], environment)
        return json.loads(output.splitlines()[-1]) | {"peak_gb": peak}


def run_prefloop(
    model: str, data: Path, case: dict[str, Any], folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    given = {
        "lora_r": case["lora_r"], "lora_alpha": 2 * max(1, case["lora_r"]), "num_train_epochs": case["epochs"], "batch_size": BATCH,
        "learning_rate": 5e-6, "dtype": case["dtype"], "sample_prompts": 0, "report_to": "[]", "save_minutes": 0,
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "worker.dpo",
        "train",
        "--model",
        model,
        "--data",
        str(data),
        "--out",
        str(folder / "out"),
    ]
    command += [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    started = time.time()
    output, peak = finish(command, environment)
    events = [json.loads(line) for line in output.splitlines()]
    first = next(event["time"] for event in events if event.get("stage") == "reference")
    steps = [event for event in events if event["event"] == "step"]
    estimate = next(event["peak_bytes"] for event in events if "peak_bytes" in event)
    return {
        "seconds": steps[-1]["time"] - first,
        "start_seconds": first - started,
        "loss": steps[-1]["loss"],
        "padding": 0.0,
        "peak_gb": peak,
        "estimated_gb": estimate / 2**30,
    }


def run_trl(given: dict[str, Any]) -> None:
    """The child process: DPOTrainer; prints one JSON object."""
    from datasets import load_dataset as load_rows
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    precompute, clock = DPOTrainer._precompute_ref_logps, {"reference": 0.0, "tokens": 0, "real": 0, "loss": 0.0}

    def timed(self, *arguments, **options):
        started = time.time()
        references = precompute(self, *arguments, **options)
        clock["reference"] += time.time() - started
        return references

    DPOTrainer._precompute_ref_logps = timed
    lora = LoraConfig(
        r=given["lora_r"], lora_alpha=2 * given["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    # bfloat16 is TRL's own default there, autocast over float32 weights, and the weights themselves when it is tuned.
    half = given["dtype"] == "bfloat16"
    tuned = given["configuration"] == "trl-tuned"
    trainer = DPOTrainer(
        model=given["model"],
        args=DPOConfig(
            output_dir=given["folder"] + "/out",
            model_init_kwargs={"dtype": "bfloat16" if half and tuned else "float32"},
            bf16=half and not tuned,
            use_cpu=not torch.cuda.is_available(),
            num_train_epochs=given["epochs"],
            learning_rate=5e-6,
            max_length=None,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **TRL[given["configuration"]],
        ),
        train_dataset=load_rows("json", data_files=given["data"], split="train"),
        peft_config=lora if given["lora_r"] else None,
    )
    collate = trainer.data_collator

    def counted(examples):
        batch = collate(examples)
        clock["tokens"] += batch["attention_mask"].numel()
        clock["real"] += int(batch["attention_mask"].sum())
        return batch

    trainer.data_collator = counted
    started = time.time()
    result = trainer.train()
    seconds = time.time() - started + clock["reference"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "start_seconds": started - given["began"] - clock["reference"],
                "loss": result.training_loss,
                "padding": 1 - clock["real"] / clock["tokens"],
            }
        )
    )


def finish(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """(standard output, peak resident GB) of a process. The peak is its own: children are waited for one at a time."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.stdout, process.stderr
    assert output is not None and errors is not None
    with tempfile.TemporaryFile("w+") as kept:
        # Standard error is drained in the background, or a chatty child would block.
        drain = subprocess.Popen(["cat"], stdin=errors, stdout=kept)
        text = output.read()
        _, status, usage = os.wait4(process.pid, 0)
        drain.wait()
        if status:
            kept.seek(0)
            raise SystemExit(f"{' '.join(command)}\nended with status {status}:\n{text[-2000:]}\n{kept.read()[-4000:]}")
    return text, usage.ru_maxrss / 2**20


def work(model: str, pairs: list[TokenPair], case: dict[str, Any]) -> dict[str, float]:
    """Floating-point operations that a pair alone needs at least, its prompt once: policy forward and backward, reference.

    A product of n×k and k×m counts 2nkm. Backward: once for the inputs and, where the weight is trained, once for it.
    Attention counts what the masks leave. Norms, rotations and activations are left out.
    """
    config = AutoConfig.from_pretrained(model)
    width, layers = config.hidden_size, config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_size, config.num_key_value_heads * head_size
    linear = layers * (2 * width * queries + 2 * width * keys + 3 * width * config.intermediate_size)
    adapter = (
        case["lora_r"] * layers * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + config.intermediate_size))
    )
    total = reference = 0.0
    for pair in pairs:
        prompt, chosen, rejected = len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)
        tokens, answers = prompt + chosen + rejected, chosen + rejected
        seen = prompt**2 / 2 + prompt * answers + chosen**2 / 2 + rejected**2 / 2
        forward = 2 * linear * tokens + 2 * width * config.vocab_size * answers + 4 * layers * queries * seen
        attention = 4 * layers * queries * seen
        if case["lora_r"]:
            total += 2 * forward + attention + 6 * adapter * tokens
        else:
            total += 3 * forward
        reference += forward
    count = len(pairs)
    return {
        "pairs": count,
        "tokens_per_pair": statistics.fmean(len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in pairs),
        "gflop_per_pair": (total + reference / case["epochs"]) / count / 1e9,
    }


def matmul_rates(model: str, dtype: torch.dtype, *, tokens: int = 1024, repeats: int = 10) -> dict[str, float]:
    """GFLOP/s of this machine at the model's shapes: `torch` by `F.linear` and `@`, `engine` by `matmul.product`."""
    config = AutoConfig.from_pretrained(model)
    shapes = [(config.hidden_size, config.hidden_size), (config.intermediate_size, config.hidden_size)]
    shapes.append((config.hidden_size, config.intermediate_size))
    rates = {}
    for name in ("torch", "engine"):
        flops = seconds = 0.0
        for out, into in shapes:
            x, g, weight = (torch.randn(size).to(dtype) for size in ((tokens, into), (tokens, out), (out, into)))
            for call in (
                (lambda x=x, w=weight: torch.nn.functional.linear(x, w))
                if name == "torch"
                else (lambda x=x, w=weight: product(x, w)),
                (lambda g=g, w=weight: g @ w) if name == "torch" else (lambda g=g, w=weight: product(g, w.t())),
            ):
                flops += 2 * tokens * out * into
                seconds += fastest(call, repeats)
        rates[name] = flops / seconds / 1e9
    return rates


def summarise(runs: list[dict[str, Any]], rates: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The median run of each configuration in each case, with ratios to Prefloop's."""
    rows = []
    for case in dict.fromkeys((run["ratio"], run["dtype"], run["epochs"], run["lora_r"]) for run in runs):
        mine = [run for run in runs if (run["ratio"], run["dtype"], run["epochs"], run["lora_r"]) == case]
        speeds = {}
        for name in dict.fromkeys(run["configuration"] for run in mine):
            speeds[name] = statistics.median(
                run["pairs"] * run["epochs"] / run["seconds"] for run in mine if run["configuration"] == name
            )
        for name, speed in speeds.items():
            own = [run for run in mine if run["configuration"] == name]
            gflops = own[0]["gflop_per_pair"] * speed
            rows.append(
                dict(zip(("ratio", "dtype", "epochs", "lora_r"), case, strict=True))
                | {
                    "configuration": name,
                    "pairs_per_second": speed,
                    "prefloop_is_faster": speeds["prefloop"] / speed if "prefloop" in speeds else None,
                    "peak_gb": max(run["peak_gb"] for run in own),
                    "padding": own[0]["padding"],
                    "gflop_per_pair": own[0]["gflop_per_pair"],
                    "of_torch_rate": gflops / rates[case[1]]["torch"],
                    "of_engine_rate": gflops / rates[case[1]]["engine"],
                    "start_seconds": statistics.median(run["start_seconds"] for run in own),
                }
            )
    return rows


def report(result: dict[str, Any]) -> str:
    machine, rates = result["machine"], result["matmul_gflops"]
    lines = [
        "| pairs | type | epochs | LoRA r | trainer | pairs/s | Prefloop is × faster | peak GB | padding | GFLOP a pair | of torch's product rate "
        "| of the best product rate | start s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["summary"]:
        ratio = "" if row["prefloop_is_faster"] is None else f"{row['prefloop_is_faster']:.2f}"
        lines.append(
            f"| {row['ratio']} | {row['dtype']} | {row['epochs']} | {row['lora_r'] or 'full'} | {row['configuration']} "
            f"| {row['pairs_per_second']:.3f} | {ratio} | {row['peak_gb']:.2f} | {row['padding']:.0%} | {row['gflop_per_pair']:.0f} "
            f"| {row['of_torch_rate']:.0%} | {row['of_engine_rate']:.0%} | {row['start_seconds']:.0f} |"
        )
    said = ", ".join(
        f"{dtype} {rate['torch']:.0f} by torch and {rate['engine']:.0f} by the engine" for dtype, rate in rates.items()
    )
    lines += [
        "",
        f"Matrix products at the model's shapes, GFLOP/s: {said}. {result['settings']['pairs']} pairs of {result['settings']['data']}, "
        f"{result['settings']['model']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; torch {machine['torch']}, "
        f"transformers {machine['transformers']}, TRL {machine['trl']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
