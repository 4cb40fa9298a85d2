"""What a float32 training step on a CPU could still save: variants of one micro-batch, turn about, in one process.

    python -m bench.step_variants --model MODEL_FOLDER [--dtypes float32 bfloat16] [--tokens 1024] [--rounds 6]

- compiled: norms, activations and what lies between the head's products by `torch.compile`'s CPU backend, one kernel each
- chunks: blocks of logits of a quarter and a tenth of the default size
- weights in the cache: the layers' products with one layer's weights again and again, against every layer's in turn. What
  laying frozen weights out once could give is less than that

Each figure is the fastest of two steps a round, over all rounds. Writes OUT.json and OUT.md.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoConfig

from bench import step_profile
from bench.machine import HH_FILE, fastest, machine_facts, publish
from worker.dpo.ground.matmul import product
from worker.dpo.ground.memory import keep_freed_memory
from worker.dpo.model import pointwise
from worker.dpo.model.scorer import PairScorer

CHUNK_MB = 64
VARIANTS = {
    "as it is": (CHUNK_MB, False),
    "compiled": (CHUNK_MB, True),
    f"chunks of {CHUNK_MB // 4} MB": (CHUNK_MB // 4, False),
    f"chunks of {CHUNK_MB // 10} MB": (CHUNK_MB // 10, False),
}


def main() -> None:
    args = arguments()
    keep_freed_memory()
    parts = {dtype: measure(args, dtype) for dtype in args.dtypes}
    result = {"parts": parts, "tokens": args.tokens, "model": Path(args.model).name, "machine": machine_facts()}
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the micro-batch, at most")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("bench/results/step_variants"))
    args = parser.parse_args()
    args.lora_r = 16
    return args


def measure(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Seconds of a step by variant, and GFLOP/s of the layers' products, forward and for their inputs' gradients."""
    scorer, pairs = step_profile.load(args, dtype)
    rows = scorer.rows(pairs)

    def step() -> float:
        started = time.perf_counter()
        logps = scorer(rows)
        (logps[0] - logps[1]).sum().backward()
        return time.perf_counter() - started

    seconds: dict[str, float] = {}
    for turn in range(args.rounds + 1):
        for name, (chunk, compiled) in VARIANTS.items():
            with running(scorer, chunk, compiled):
                taken = min(step(), step())
            # The first turn compiles and warms up.
            if turn:
                seconds[name] = min(taken, seconds.get(name, taken))
    rates = {
        name: rate(args.model, rows.tokens, getattr(torch, dtype), same=same)
        for name, same in (("in the cache", True), ("each layer's", False))
    }
    return {"tokens": rows.tokens, "seconds": seconds, "gflops": rates}


@contextmanager
def running(scorer: PairScorer, chunk_mb: int, compiled: bool) -> Iterator[None]:
    before = scorer.chunk_bytes
    scorer.chunk_bytes = chunk_mb << 20
    try:
        if compiled:
            with mock.patch.object(pointwise, "serves", lambda x: x.dtype in (torch.float32, torch.bfloat16)):
                yield
        else:
            yield
    finally:
        scorer.chunk_bytes = before


def rate(model: str, tokens: int, dtype: torch.dtype, *, same: bool, repeats: int = 6) -> float:
    """GFLOP/s of all layers' products, forward and backward by input. same: all layers with the first one's weights."""
    config = AutoConfig.from_pretrained(model)
    width, inner, count = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    shapes = [(queries, width), (keys, width), (keys, width), (width, queries)]
    shapes += [(inner, width), (inner, width), (width, inner)]
    layers = [[torch.randn(shape).to(dtype) for shape in shapes] for _ in range(1 if same else count)]
    inputs = {into: torch.randn(tokens, into).to(dtype) for pair in shapes for into in pair}

    def all_products() -> None:
        for number in range(count):
            for weight in layers[number % len(layers)]:
                product(inputs[weight.shape[1]], weight)
                product(inputs[weight.shape[0]], weight.t())

    flops = 4 * tokens * count * sum(out * into for out, into in shapes)
    return flops / fastest(all_products, repeats) / 1e9


def report(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        "## Variants of a step",
        "",
        f"{result['model']}, LoRA r 16; {machine['processor']}, {machine['cores']} cores; torch {machine['torch']}",
        "",
        "| type | variant | seconds a step | of the first |",
        "|---|---|---|---|",
    ]
    for dtype, part in result["parts"].items():
        first = next(iter(part["seconds"].values()))
        lines += [
            f"| {dtype} | {name} | {seconds:.3f} | {seconds / first:.1%} |" for name, seconds in part["seconds"].items()
        ]
    lines += ["", "| type | the layers' products, weights | GFLOP/s |", "|---|---|---|"]
    for dtype, part in result["parts"].items():
        lines += [f"| {dtype} | {name} | {gflops:.0f} |" for name, gflops in part["gflops"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
