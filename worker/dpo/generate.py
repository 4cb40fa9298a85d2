"""Answers of a model to prompts: greedy, or sampled so that the same seed gives the same answers."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo import chat, data, models
from worker.dpo.pairs import Problem

EXAMPLES = """examples:
  python -m worker.dpo generate --model models/base --data eval.jsonl
  python -m worker.dpo generate --model models/base --adapter out --data eval.jsonl --temperature 0.8 --seed 7
"""


def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[list[dict]],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """One answer to each prompt (a list of messages), without special tokens.

    temperature: 0 is greedy, above 0 samples from the whole distribution. Prompts are answered one by one, so an answer
    depends on its prompt, its place in the list and the seed only, and no padding is involved. A prompt that leaves no
    room in the model's context loses its beginning. The random state and the model's mode are as before afterwards.
    """
    return list(_answers(model, tokenizer, prompts, max_new_tokens, temperature, seed))


def _answers(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Iterable[list[dict]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    chat.ensure_template(tokenizer)
    ends = sorted(chat.end_token_ids(tokenizer))
    # The model's own generation_config (a penalty, a top_p) must not change the answers.
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        repetition_penalty=1.0,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
        **sampling,
    )
    context = getattr(model.config, "max_position_embeddings", None)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for index, messages in enumerate(prompts):
            ids = chat.encode_prompt(tokenizer, messages)
            room = max(1, context - max_new_tokens) if context else len(ids)
            inputs = torch.tensor([ids[-room:]], device=device)
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed + index)
                whole = model.generate(inputs=inputs, attention_mask=torch.ones_like(inputs), generation_config=settings)
            yield tokenizer.decode(whole[0, inputs.shape[1] :], skip_special_tokens=True)
    finally:
        model.train(training)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Answer the prompts of a file: one JSON object a line with line, prompt and completion."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--adapter", help="folder of a LoRA adapter")
    parser.add_argument("--data", required=True, type=Path, help="JSON Lines with prompts, preference pairs too")
    parser.add_argument("--limit", type=int, help="answer the first N prompts only")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default), above samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def run(args: argparse.Namespace) -> int:
    """Print the answers; lines that hold no prompt are named on standard error. Returns the exit code.

    Raises data.DataFileError and models.ModelError.
    """

    def report(problem: Problem) -> None:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)

    tokenizer = models.load_tokenizer(args.model)
    chat.ensure_template(tokenizer)
    prompts = list(data.read_prompts(args.data, on_problem=report, tokenizer=tokenizer, limit=args.limit))
    if not prompts:
        raise data.DataFileError(f"{args.data} has no prompt to answer.")
    model: Any = models.load_base(args.model, dtype=args.dtype, device=models.choose_device(args.device))
    if args.adapter:
        model = models.load_adapter(model, args.adapter)
    messages = (prompt for _, prompt in prompts)
    answers = _answers(model, tokenizer, messages, args.max_new_tokens, args.temperature, args.seed)
    for (line, prompt), answer in zip(prompts, answers, strict=True):
        print(json.dumps({"line": line, "prompt": prompt, "completion": answer}, ensure_ascii=False), flush=True)
    return 0
