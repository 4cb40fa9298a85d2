"""`score`: log-probabilities and rewards of every pair of a file, one JSON object a line."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.dpo.data import fitting, reading
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import cache_folder
from worker.dpo.ground.config import from_mapping
from worker.dpo.model import loading
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.scorer import PairScorer
from worker.dpo.model.scoring import score_pairs
from worker.dpo.run.memory_plan import BUDGET_CPU, BUDGET_GPU
from worker.dpo.run.reference import ReferenceCache, cached_scores, scorer_key

EXAMPLES = """examples:
  python -m worker.dpo score --model models/base --data pairs.jsonl
  python -m worker.dpo score --model models/base --adapter out --data pairs.jsonl --beta 0.1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Print log-probabilities and implicit rewards, one JSON object a pair; sums in nats."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model, which is the reference")
    parser.add_argument("--adapter", help="folder of a LoRA adapter, which makes the policy")
    parser.add_argument("--policy", help="folder or hub id of a whole model that is the policy, instead of an adapter")
    parser.add_argument(
        "--data", required=True, type=Path, help="preference file: JSON Lines, JSON, CSV, TSV or Parquet, gzip too"
    )
    parser.add_argument("--max-length", type=int, help="tokens of prompt and one completion (default: no limit)")
    parser.add_argument("--beta", type=float, default=0.1, help="scale of the rewards (default 0.1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--token-budget", type=int, help="tokens in one forward")
    parser.add_argument(
        "--reference-cache", type=Path, help="folder of reference log-probabilities (default: ~/.cache/prefloop)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the scores; lines that can't be used are named on standard error. Returns the exit code.

    Raises data.DataFileError and models.ModelError.
    """
    if args.adapter and args.policy:
        raise loading.ModelError("Give --adapter or --policy, not both.")
    device = loading.choose_device(args.device)
    tokenizer = loading.load_tokenizer(args.model)
    base = loading.load_base(args.model, dtype=args.dtype, device=device)
    dataset = reading.load_dataset(args.data, tokenizer, max_length=args.max_length)
    dataset = fitting.within_vocabulary(dataset, base.get_input_embeddings().weight.shape[0])
    for problem in dataset.problems:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)
    budget = args.token_budget or (BUDGET_GPU if device.startswith("cuda") else BUDGET_CPU)
    reference = _reference(base, dataset.pairs, args, budget)
    policy = None
    if args.adapter:
        policy = loading.load_adapter(base, args.adapter)
    elif args.policy:
        policy = loading.load_base(args.policy, dtype=args.dtype, device=device)
    logps = reference if policy is None else _scores(policy, dataset.pairs, args.dtype, budget)
    for record in records(dataset.pairs, logps, reference, args.beta):
        print(json.dumps(record), flush=True)
    return 0


def _reference(base: PreTrainedModel, pairs: Sequence[TokenPair], args: argparse.Namespace, budget: int) -> Tensor:
    """(2, pairs) log-probabilities of the base model: from the cache that training uses too, or computed and kept there."""
    weights = loading.weights_hash(base)
    scorer = _scorer(base, pairs, args.dtype)
    key = scorer_key(scorer, weights=weights, dtype=args.dtype)
    cache = ReferenceCache(args.reference_cache or cache_folder() / "reference", key)
    scores = cached_scores(scorer, pairs, cache, budget=budget)
    for remark in cache.remarks:
        print(remark, file=sys.stderr)
    return scores


def _scores(model: nn.Module, pairs: Sequence[TokenPair], dtype: str, budget: int) -> Tensor:
    return score_pairs(_scorer(model, pairs, dtype), pairs, budget=budget)


def _scorer(model: nn.Module, pairs: Sequence[TokenPair], dtype: str) -> PairScorer:
    model.requires_grad_(False)
    return choose_scorer(
        model, pairs, from_mapping({"dtype": dtype}), log=lambda text: print(text, file=sys.stderr)
    ).eval()


def records(
    pairs: Sequence[TokenPair], logps: Tensor, reference: Tensor, beta: float
) -> Iterator[dict[str, float | int]]:
    """What `score` prints, per pair. logps, reference: (2, pairs), chosen first, in nats."""
    rewards: Tensor = beta * (logps - reference)
    for index, pair in enumerate(pairs):
        yield {
            "line": pair.line,
            "logps_chosen": logps[0, index].item(),
            "logps_rejected": logps[1, index].item(),
            "ref_logps_chosen": reference[0, index].item(),
            "ref_logps_rejected": reference[1, index].item(),
            "reward_chosen": rewards[0, index].item(),
            "reward_rejected": rewards[1, index].item(),
            "tokens_chosen": len(pair.chosen_ids),
            "tokens_rejected": len(pair.rejected_ids),
        }
