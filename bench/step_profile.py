"""Where the time of a training step goes: forward and backward of one micro-batch under PyTorch's profiler.

    python -m bench.step_profile --model MODEL_FOLDER [--dtypes float32 bfloat16] [--tokens 1024] [--lora-r 16]

Operators are grouped by what they compute, products by their shapes: over answer tokens only (the head), with the LoRA rank,
or the layers' own. `rate` is what a group of products reached, and `of the best` its share of the best product rate of this
machine at the layers' shapes (`bench.dpo_vs_trl`). Times are the operators' own; with several cores working on one
operator they are wall-clock times. Writes OUT.json and OUT.md.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.dpo_vs_trl import matmul_rates
from bench.machine import HH_FILE, choose_pairs, machine_facts, publish, write_rows
from worker.dpo.data import reading
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import from_mapping
from worker.dpo.ground.memory import keep_freed_memory
from worker.dpo.model import loading
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.scorer import PairScorer

PRODUCTS = {"mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::addmm_"}
# Of short sequences; long ones go through a kernel of that name.
ATTENTION = {"aten::bmm", "aten::baddbmm_", "aten::_softmax", "aten::_softmax_backward_data"}
COPIES = {
    "aten::copy_",
    "aten::cat",
    "aten::fill_",
    "aten::zero_",
    "aten::index",
    "aten::index_select",
    "aten::repeat_interleave",
}


def main() -> None:
    args = arguments()
    parts = {dtype: measure(args, dtype) for dtype in args.dtypes}
    result = {
        "parts": parts,
        "tokens": args.tokens,
        "lora_r": args.lora_r,
        "model": Path(args.model).name,
        "machine": machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the micro-batch, at most")
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="profiled steps")
    parser.add_argument("--out", type=Path, default=Path("bench/results/step_profile"))
    return parser.parse_args()


def measure(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Seconds and, for products, floating-point operations of each group in one step."""
    keep_freed_memory()
    scorer, pairs = load(args, dtype)
    rows = scorer.rows(pairs)

    def step() -> None:
        logps = scorer(rows)
        (logps[0] - logps[1]).sum().backward()

    step()
    started = time.perf_counter()
    step()
    alone = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(args.repeats):
            step()
    answers = len(rows.target)
    seconds: dict[str, float] = defaultdict(float)
    flops: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        shapes = [shape for shape in event.input_shapes if len(shape) == 2]
        group = group_of(event.key, shapes, answers, args.lora_r)
        seconds[group] += event.self_cpu_time_total / 1e6 / args.repeats
        if event.key in PRODUCTS:
            flops[group] += event.count * product_flops(event.key, shapes) / args.repeats
    return {
        "tokens": rows.tokens,
        "pairs": len(pairs),
        "step_seconds": alone,
        "seconds": dict(seconds),
        "flops": dict(flops),
        "best_gflops": max(matmul_rates(args.model, getattr(torch, dtype)).values()),
    }


def load(args: argparse.Namespace, dtype: str) -> tuple[PairScorer, list[TokenPair]]:
    """The model with a new adapter as a run would have it, and pairs that fill one micro-batch."""
    config = from_mapping({"dtype": dtype, "lora_r": args.lora_r, "lora_alpha": 2 * args.lora_r})
    tokenizer = loading.load_tokenizer(args.model)
    rows = write_rows(
        args.out.with_suffix(".pairs.jsonl"), choose_pairs(args.data, args.model, count=24, max_length=512)
    )
    pairs = reading.load_dataset(rows, tokenizer, max_length=None).pairs
    rows.unlink()
    policy = loading.prepare_policy(loading.load_base(args.model, dtype=dtype, device="cpu"), config)
    scorer = choose_scorer(policy, pairs, config, log=print)
    scorer.train()
    chosen: list[TokenPair] = []
    for pair in pairs:
        if scorer.packing([*chosen, pair]).together() <= args.tokens:
            chosen.append(pair)
    return scorer, chosen


def group_of(operator: str, shapes: list[list[int]], answers: int, rank: int) -> str:
    if operator in PRODUCTS:
        sizes = {size for shape in shapes for size in shape}
        return "head products" if answers in sizes else "LoRA products" if rank in sizes else "layer products"
    if "attention" in operator or operator in ATTENTION:
        return "attention"
    if operator in COPIES:
        return "copies"
    if operator.startswith("aten::"):
        return "element by element"
    return "the rest (Python, dispatch)"


def product_flops(operator: str, shapes: list[list[int]]) -> float:
    """2nkm of a product, from the shapes of its operands."""
    if operator.startswith("aten::addmm") and len(shapes) == 3:
        shapes = shapes[1:]
    if len(shapes) < 2:
        return 0.0
    (n, k), other = shapes[0], shapes[1]
    return 2.0 * n * k * (other[0] if operator == "mkldnn::_linear_pointwise" else other[1])


def report(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = []
    for dtype, part in result["parts"].items():
        total = sum(part["seconds"].values())
        lines += [
            f"{dtype}: {part['pairs']} pairs, {part['tokens']} tokens, {part['step_seconds']:.2f} s a step "
            f"({total:.2f} s under the profiler); best product rate {part['best_gflops']:.0f} GFLOP/s",
            "",
            "| | seconds | share | rate, GFLOP/s | of the best |",
            "|---|---|---|---|---|",
        ]
        for group, seconds in sorted(part["seconds"].items(), key=lambda item: -item[1]):
            rate = part["flops"].get(group, 0.0) / seconds / 1e9 if seconds else 0.0
            shown = f"{rate:.0f} | {rate / part['best_gflops']:.0%}" if rate else "| "
            lines.append(f"| {group} | {seconds:.3f} | {seconds / total:.0%} | {shown} |")
        lines.append("")
    text = "\n".join(lines)
    return f"""## Where a step's time goes

{result["model"]}, LoRA r {result["lora_r"]}; {machine["processor"]}, {machine["cores"]} cores; torch {machine["torch"]}

{text}"""


if __name__ == "__main__":
    main()
