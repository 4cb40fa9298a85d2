"""How many tokens go through the model for each pair, by what pairs may share: nothing, their own prompt, any beginning.

    python -m bench.shared_beginnings --model MODEL_FOLDER [--data FILE] [--pairs 500] [--batch-size 16] [--token-budget 1024]

`in a step` cuts random batches into micro-batches as training does, `in a scoring pass` the whole data as the reference pass
does. Needs the tokenizer only. Writes OUT.json and OUT.md.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer

from bench.machine import HH_FILE, choose_pairs, publish, write_rows
from worker.dpo.data.pairs import TokenPair
from worker.dpo.data.reading import load_dataset
from worker.dpo.rows.packing import SharedPacking
from worker.dpo.rows.plan import make_plan, micro_batches
from worker.dpo.rows.rows import shared_rows


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(Path(folder) / "pairs.jsonl", choose_pairs(args.data, args.model, count=args.pairs))
        pairs = load_dataset(data, AutoTokenizer.from_pretrained(args.model), max_length=None).pairs
    plan = make_plan(len(pairs), batch_size=args.batch_size, seed=0, epochs=1)
    steps = [plan.batch(step) for step in range(plan.total_steps)]
    tokens = {
        "nothing shared": sum(len(2 * pair.prompt_ids + pair.chosen_ids + pair.rejected_ids) for pair in pairs),
        "a pair's own prompt": sum(len(pair.prompt_ids + pair.chosen_ids + pair.rejected_ids) for pair in pairs),
        "any beginning, in a step": sum(in_rows(pairs, batch, args.token_budget) for batch in steps),
        "any beginning, in a scoring pass": in_rows(pairs, range(len(pairs)), args.token_budget),
    }
    result = {
        "model": Path(args.model).name,
        "data": args.data.name,
        "pairs": len(pairs),
        "batch_size": args.batch_size,
        "token_budget": args.token_budget,
        "tokens_per_pair": {name: count / len(pairs) for name, count in tokens.items()},
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model, for its tokenizer")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16, help="pairs in a step")
    parser.add_argument("--token-budget", type=int, default=1024, help="tokens of a micro-batch")
    parser.add_argument("--out", type=Path, default=Path("bench/results/shared_beginnings"))
    return parser.parse_args()


def in_rows(pairs: list[TokenPair], indices: Iterable[int], budget: int) -> int:
    """Tokens of the rows that hold these pairs."""
    (dealt,) = micro_batches(list(indices), SharedPacking(pairs), budget=budget)
    return sum(shared_rows([pairs[index] for index in held]).tokens for held in dealt)


def report(result: dict) -> str:
    lines = ["| shared | tokens a pair | of a pair's own row |", "|---|---|---|"]
    own = result["tokens_per_pair"]["a pair's own prompt"]
    lines += [f"| {name} | {count:.1f} | {count / own:.1%} |" for name, count in result["tokens_per_pair"].items()]
    lines += [
        "",
        f"{result['pairs']} pairs of {result['data']}, {result['model']}; batches of {result['batch_size']}, ",
    ]
    lines[-1] += f"rows of up to {result['token_budget']} tokens."
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
