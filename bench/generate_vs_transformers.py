"""Tokens a second of `generate`, against transformers' `generate(num_return_sequences=…)` in left-padded batches, turn about.

    GOMP_SPINCOUNT=10000 python -m bench.generate_vs_transformers --model MODEL_FOLDER [--prompts 8] [--samples 4] [--tokens 128] [--batches 2 4 8]
        [--rounds 2] [--most 256] [--ended]

Both answer the same prompts of the HH pairs (of up to `--most` tokens) with draws from the whole softmax, float32 on a CPU. First each
batch size of transformers, in prompts, answers as many prompts with `--search` tokens (with one size, none does); the fastest then runs
in turn with ours, which starts anew each time: reading prompts and laying out weights count. Every answer has `--tokens` tokens; with
`--ended` answers end by themselves, and tokens up to their end count. Lines of like length share a batch on both sides. With
`--one-batch` transformers answers only the batch in the middle: its batches know nothing of each other, so its rate is that of all.
Beside other programs the seconds of a run are theirs as well: so the table has tokens a second of processor time, too. Writes OUT.json and OUT.md.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from bench.machine import HH_FILE, choose_pairs, machine_facts, publish
from worker.dpo.data import chat
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding import generation
from worker.dpo.decoding.lines import Limits, lines_of, prompt_ids
from worker.dpo.decoding.sampling import Sampling
from worker.dpo.model import loading


class Rates(NamedTuple):
    """Tokens a second, and a second of processor time, which other programs' share of the cores touches less."""

    wall: float
    processor: float


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = loading.load_tokenizer(args.model)
    chat.ensure_template(tokenizer)
    model = loading.load_base(args.model, dtype="float32").eval()
    prompts = chosen_prompts(args, tokenizer)
    ends = sorted(chat.end_token_ids(tokenizer)) if args.ended else [model.get_input_embeddings().weight.shape[0]]
    search = {}
    for size in args.batches if len(args.batches) > 1 else []:
        search[size] = transformers_rate(model, prompts[:size], ends, args, size=size, tokens=args.search)
        print(
            f"transformers, {size} prompts in a batch: {search[size].wall:.1f} tokens/s, {search[size].processor:.1f} a processor second",
            flush=True,
        )
    best = max(search, key=lambda size: search[size].processor) if search else args.batches[0]
    rounds = []
    middle = max(0, len(prompts) - best) // 2
    asked = prompts[middle : middle + best] if args.one_batch else prompts
    for _ in range(args.rounds):
        theirs = transformers_rate(model, asked, ends, args, size=best, tokens=args.tokens)
        rounds.append({"transformers": theirs, "prefloop": our_rate(model, prompts, ends, args)})
        print(rounds[-1], flush=True)
    result = {
        "model": Path(args.model).name,
        "prompts": len(prompts),
        "mean_prompt_tokens": round(fmean(map(len, prompts)), 1),
        "samples": args.samples,
        "new_tokens": args.tokens,
        "answers_end": "by themselves" if args.ended else "at the limit",
        "threads": torch.get_num_threads(),
        "transformers_batches": {size: rate._asdict() for size, rate in search.items()},
        "transformers_best_batch": best,
        "transformers_prompts": len(asked),
        "transformers_mean_prompt_tokens": round(fmean(map(len, asked)), 1),
        "rounds": [{name: rate._asdict() for name, rate in one.items()} for one in rounds],
        **machine_facts(),
    }
    publish(args.out, result, report(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a base model")
    parser.add_argument("--data", type=Path, default=HH_FILE)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--search", type=int, default=32, help="tokens of an answer where batch sizes are compared")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8], help="prompts in a batch of transformers")
    parser.add_argument("--lines", type=int, default=generation.LINES, help="our answers at a time")
    parser.add_argument("--one-batch", action="store_true", help="transformers answers one batch, of middling length")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="threads of both (default: PyTorch's)")
    parser.add_argument(
        "--most", type=int, default=256, help="tokens of the longest prompt and its answers in the data"
    )
    parser.add_argument("--ended", action="store_true", help="answers end by themselves")
    parser.add_argument("--out", type=Path, default=Path("bench/results/generate_vs_transformers"))
    return parser.parse_args()


def chosen_prompts(args: argparse.Namespace, tokenizer: Any) -> list[tuple[int, ...]]:
    """The tokens of different prompts, longest first."""
    rows = choose_pairs(args.data, args.model, count=4 * max(args.prompts, *args.batches), max_length=args.most)
    ids = {prompt_ids(tokenizer, Prompt(1, row["prompt"]), None)[0]: None for row in rows}
    return sorted(list(ids)[: max(args.prompts, *args.batches)], key=len, reverse=True)[: args.prompts]


def transformers_rate(
    model: Any, prompts: Sequence[tuple[int, ...]], ends: list[int], args: argparse.Namespace, *, size: int, tokens: int
) -> Rates:
    """Tokens a second of transformers' generate, `size` prompts at a time."""
    settings = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=args.samples,
        eos_token_id=ends,
        pad_token_id=0,
    )
    torch.manual_seed(0)

    def work() -> int:
        made = 0
        for first in range(0, len(prompts), size):
            batch = prompts[first : first + size]
            width = max(map(len, batch))
            inputs = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in batch])
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in batch])
            with torch.no_grad():
                out = model.generate(inputs=inputs, attention_mask=mask, generation_config=settings)
            for ids in out[:, width:].tolist():
                made += next((at for at, token in enumerate(ids) if token in ends), len(ids))
        return made

    return rates(work)


def our_rate(model: Any, prompts: Sequence[tuple[int, ...]], ends: list[int], args: argparse.Namespace) -> Rates:
    """Tokens a second of the engine's loop."""
    lines = list(lines_of(prompts, samples=args.samples, seed=0))
    limits = Limits(frozenset(ends), args.tokens, args.lines)
    return rates(
        lambda: sum(len(written.ids) for written in generation.write(model, lines, Sampling(1.0), limits, log=print))
    )


def rates(work: Callable[[], int]) -> Rates:
    """How fast `work` makes the tokens that it counts."""
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    return Rates(made / (time.perf_counter() - wall), made / (time.process_time() - processor))


def report(result: dict[str, Any]) -> str:
    def row(number: int, one: dict[str, Any]) -> str:
        theirs, ours = one["transformers"], one["prefloop"]
        cells = [f"{theirs[kind]:.1f} | {ours[kind]:.1f} | {ours[kind] / theirs[kind]:.2f}" for kind in Rates._fields]
        return f"| {number} | {' | '.join(cells)} |"

    batches = result["transformers_batches"]
    search = ", ".join(f"{size}: {rate['wall']:.1f} ({rate['processor']:.1f})" for size, rate in batches.items())
    return "\n".join(
        [
            f"{result['model']}, {result['prompts']} prompts of {result['mean_prompt_tokens']} tokens on average, "
            f"{result['samples']} answers each of up to {result['new_tokens']} tokens, ending {result['answers_end']}; "
            f"{result['processor']}, {result['cores']} cores, {result['threads']} threads; torch {result['torch']}, "
            f"transformers {result['transformers']}.",
            f"transformers, tokens/s (a processor second) by prompts in a batch: {search or 'not compared'}; "
            f"taken: {result['transformers_best_batch']}, for {result['transformers_prompts']} prompts of "
            f"{result['transformers_mean_prompt_tokens']} tokens.",
            "",
            "| round | transformers, tokens/s | Prefloop | × | transformers, tokens a processor second | Prefloop | × |",
            "|---|---|---|---|---|---|---|",
            *(row(number, one) for number, one in enumerate(result["rounds"], start=1)),
            "",
        ]
    )


if __name__ == "__main__":
    main()
