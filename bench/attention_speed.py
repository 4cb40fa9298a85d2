"""Attention on a CPU by plain products and by PyTorch's kernel, turn about, for rows of several lengths.

    python -m bench.attention_speed --model MODEL_FOLDER [--lengths 250 500 1000 4000] [--dtypes float32 bfloat16] [--repeats 5]

Rows of real pairs, and of random ones with prompts of the given lengths and answers of a quarter of them, about 4,000 tokens in
all. Counted are a forward and a forward with backward, as a training step with its reference pass needs, in one layer of
SmolLM2-135M's shape (9 heads, 3 of keys, 64 wide). Writes OUT.json and OUT.md.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from bench.machine import HH_FILE, choose_pairs, machine_facts, publish, write_rows
from worker.dpo.data.pairs import TokenPair
from worker.dpo.data.reading import load_dataset
from worker.dpo.ground.memory import keep_freed_memory
from worker.dpo.model import cpu_attention
from worker.dpo.rows.masks import Layout
from worker.dpo.rows.packing import SharedPacking
from worker.dpo.rows.plan import micro_batches
from worker.dpo.rows.rows import shared_rows

HEADS, KV_HEADS, DIM = 9, 3, 64
TOKENS = 4000
PATHS = {"products": 10**9, "kernel": 0, "as the engine does": cpu_attention.SHORT}


def main() -> None:
    args = arguments()
    keep_freed_memory()
    rows = {"HH": real_pairs(args.model)} | {str(length): random_pairs(length) for length in args.lengths}
    rates = {
        (dtype, name): measure(layouts(pairs), getattr(torch, dtype), args.repeats)
        for dtype in args.dtypes
        for name, pairs in rows.items()
    }
    result = {
        "milliseconds": {f"{dtype} {name}": times for (dtype, name), times in rates.items()},
        "short": cpu_attention.SHORT,
        "machine": machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model, for its tokenizer")
    parser.add_argument("--lengths", nargs="+", type=int, default=[250, 500, 1000, 4000])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/attention_speed"))
    return parser.parse_args()


def real_pairs(model: str) -> list[TokenPair]:
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(Path(folder) / "pairs.jsonl", choose_pairs(HH_FILE, model, count=16, max_length=512))
        return load_dataset(data, AutoTokenizer.from_pretrained(model), max_length=None).pairs


def random_pairs(length: int) -> list[TokenPair]:
    drawn = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(10_000) for _ in range(count))

    count = max(1, TOKENS * 2 // (3 * length))
    return [TokenPair(line, ids(length), ids(length // 4), ids(length // 4)) for line in range(count)]


def layouts(pairs: list[TokenPair]) -> list[Layout]:
    (dealt,) = micro_batches(range(len(pairs)), SharedPacking(pairs), budget=1024)
    cut = [shared_rows([pairs[index] for index in held]).layout for held in dealt]
    return [layout for layout in cut if layout is not None]


def measure(rows: list[Layout], dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """The least milliseconds that each path took over all rows."""
    inputs = [drawn(layout, dtype) for layout in rows]
    best: dict[str, float] = {}
    for _ in range(repeats + 1):
        for name, cpu_attention.SHORT in PATHS.items():
            started = time.perf_counter()
            for layout, (query, key, value, above) in zip(rows, inputs, strict=True):
                with torch.no_grad():
                    cpu_attention.attend(query, key, value, layout, None, None)
                torch.autograd.grad(
                    cpu_attention.attend(query, key, value, layout, None, None), (query, key, value), above
                )
            best[name] = min(best.get(name, float("inf")), 1000 * (time.perf_counter() - started))
    return best


def drawn(layout: Layout, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    tokens = layout.strands[-1].end
    # Heads innermost but one, as linear layers give them.
    inputs = [
        torch.randn(1, tokens, heads, DIM).to(dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    return *inputs, torch.randn(1, tokens, HEADS, DIM).to(dtype)


def report(result: dict) -> str:
    machine = result["machine"]
    lines = [f"| rows | {' | '.join(PATHS)} |", "|---|" + "---|" * len(PATHS)]
    lines += [
        f"| {name} | {' | '.join(f'{times[path]:.0f}' for path in PATHS)} |"
        for name, times in result["milliseconds"].items()
    ]
    lines += ["", f"Milliseconds. The engine takes products for sequences of up to {result['short']} tokens."]
    lines += [f"{machine['processor']}, {machine['cores']} cores; torch {machine['torch']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
