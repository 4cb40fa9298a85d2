"""`generate`: answers to the prompts of a file, one JSON object a line."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from worker.dpo.data import chat, reading
from worker.dpo.data.pairs import Problem
from worker.dpo.ground.errors import DataFileError
from worker.dpo.model import loading
from worker.dpo.model.generation import BATCH_SIZE, answers

EXAMPLES = """examples:
  python -m worker.dpo generate --model models/base --data eval.jsonl
  python -m worker.dpo generate --model models/base --adapter out --data eval.jsonl --temperature 0.8 --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Answer the prompts of a file: one JSON object a line with line, prompt and completion."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--adapter", help="folder of a LoRA adapter")
    parser.add_argument(
        "--data", required=True, type=Path, help="file with prompts: preference pairs, or lines with a prompt alone"
    )
    parser.add_argument("--limit", type=int, help="answer the first N prompts only")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default), above samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help=f"prompts answered at a time (default {BATCH_SIZE})"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def run(args: argparse.Namespace) -> int:
    """Print the answers; lines that hold no prompt are named on standard error. Returns the exit code.

    Raises DataFileError and ModelError.
    """

    def report(problem: Problem) -> None:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)

    tokenizer = loading.load_tokenizer(args.model)
    chat.ensure_template(tokenizer)
    prompts = list(reading.read_prompts(args.data, on_problem=report, tokenizer=tokenizer, limit=args.limit))
    if not prompts:
        raise DataFileError(f"{args.data} has no prompt to answer.")
    model: Any = loading.load_base(args.model, dtype=args.dtype, device=loading.choose_device(args.device))
    if args.adapter:
        model = loading.load_adapter(model, args.adapter)
    given = answers(
        model,
        tokenizer,
        prompts,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
        batch_size=args.batch_size,
    )
    for prompt, answer in zip(prompts, given, strict=True):
        print(
            json.dumps({"line": prompt.line, "prompt": prompt.messages, "completion": answer.text}, ensure_ascii=False),
            flush=True,
        )
    return 0
