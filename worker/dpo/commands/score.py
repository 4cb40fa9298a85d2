"""`score`: log-probabilities and rewards of every pair of a file, one JSON object a line.

With `--out FILE` the lines go there as they are scored, and standard output has the engine's events: `state` (`stage` loading,
reference, scoring with `total_steps`), `step` (pairs that are there), `log` (lines that can't be used), and `done` (`path`, `pairs`,
`made`) or `error`. The same command again goes on; a file of another model, other data or other settings ends it with code 2.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.dpo.commands.endings import explain
from worker.dpo.commands.scored import ScoreFile, weights_of
from worker.dpo.data import fitting, reading
from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.cache import cache_folder
from worker.dpo.ground.config import from_mapping
from worker.dpo.ground.disk import file_sha256
from worker.dpo.ground.errors import DONE
from worker.dpo.ground.events import Event, EventWriter
from worker.dpo.ground.stopping import Stop
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

WRITTEN_AT_ONCE = 64


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
    parser.add_argument("--out", type=Path, help="file for the scores, which a later call goes on with")
    parser.add_argument("--max-length", type=int, help="tokens of prompt and one completion (default: no limit)")
    parser.add_argument("--beta", type=float, default=0.1, help="scale of the rewards (default 0.1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--token-budget", type=int, help="tokens in one forward")
    parser.add_argument(
        "--reference-cache", type=Path, help="folder of reference log-probabilities (default: ~/.cache/prefloop)"
    )


def run(args: argparse.Namespace) -> int:
    """Score. Returns the exit code; without --out raises data.DataFileError and models.ModelError."""
    if args.adapter and args.policy:
        raise loading.ModelError("Give --adapter or --policy, not both.")
    return _into_file(args) if args.out is not None else _printed(args)


def _printed(args: argparse.Namespace) -> int:
    """Lines that can't be used are named on standard error."""
    base, pairs = _read(args, lambda text: print(text, file=sys.stderr))
    reference = _reference(base, pairs, args, _budget(base, args))
    policy = _policy(base, args)
    logps = reference if policy is None else _scores(policy, pairs, args)
    for record in records(pairs, logps, reference, args.beta):
        print(json.dumps(record), flush=True)
    return DONE


def _into_file(args: argparse.Namespace) -> int:
    stop = Stop()
    stop.listen()
    with EventWriter() as events:
        try:
            events.emit(Event.STATE, stage="loading")
            base, pairs = _read(args, lambda text: events.emit(Event.LOG, level="warning", message=text))
            with ScoreFile(args.out, _settings(args)) as file:
                facts = _fill(base, pairs, args, file, events, stop)
        except Exception as problem:
            code, reason, message = explain(problem)
            events.emit(Event.ERROR, reason=reason, message=message, exit_code=code)
            return code
        events.emit(Event.DONE, path=str(args.out), **facts)
    return DONE


def _fill(
    base: PreTrainedModel,
    pairs: Sequence[TokenPair],
    args: argparse.Namespace,
    file: ScoreFile,
    events: EventWriter,
    stop: Stop,
) -> dict[str, int]:
    """Score the pairs that the file lacks, some at a time, and tell how far that is."""
    missing = [pair for pair in pairs if pair.line not in file.lines]
    events.emit(Event.STATE, stage="reference", missing=len(missing), total_steps=len(pairs))
    reference = _reference(base, missing, args, _budget(base, args), stop)
    policy = _policy(base, args)
    events.emit(Event.STATE, stage="scoring", total_steps=len(pairs))
    there = len(pairs) - len(missing)
    scorer = None if policy is None else _scorer(policy, missing, args.dtype)
    for first in range(0, len(missing), WRITTEN_AT_ONCE):
        stop.check()
        some = missing[first : first + WRITTEN_AT_ONCE]
        known = reference[:, first : first + WRITTEN_AT_ONCE]
        logps = known if scorer is None else score_pairs(scorer, some, budget=_budget(base, args), stop=stop)
        file.add(records(some, logps, known, args.beta))
        there += len(some)
        events.emit(Event.STEP, there, total_steps=len(pairs))
    return {"pairs": len(pairs), "made": len(missing)}


def _read(args: argparse.Namespace, report: Callable[[str], None]) -> tuple[PreTrainedModel, Sequence[TokenPair]]:
    """The base model, and the pairs that can be scored; the other lines are reported."""
    tokenizer = loading.load_tokenizer(args.model)
    base = loading.load_base(args.model, dtype=args.dtype, device=loading.choose_device(args.device))
    dataset = reading.load_dataset(args.data, tokenizer, max_length=args.max_length)
    dataset = fitting.within_vocabulary(dataset, base.get_input_embeddings().weight.shape[0])
    for problem in dataset.problems:
        report(f"line {problem.line}: {problem.message}")
    return base, dataset.pairs


def _policy(base: PreTrainedModel, args: argparse.Namespace) -> PreTrainedModel | None:
    if args.adapter:
        return loading.load_adapter(base, args.adapter)
    if args.policy:
        return loading.load_base(args.policy, dtype=args.dtype, device=loading.choose_device(args.device))
    return None


def _budget(base: PreTrainedModel, args: argparse.Namespace) -> int:
    return args.token_budget or (BUDGET_GPU if base.device.type == "cuda" else BUDGET_CPU)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the lines of --out depend on."""
    named = {"model": args.model, "adapter": args.adapter, "policy": args.policy}
    told = {name: weights_of(Path(value)) if value and Path(value).is_dir() else value for name, value in named.items()}
    data = file_sha256(args.data) if args.data.is_file() else None
    return told | {"data": data, "dtype": args.dtype, "max_length": args.max_length, "beta": args.beta}


def _reference(
    base: PreTrainedModel, pairs: Sequence[TokenPair], args: argparse.Namespace, budget: int, stop: Stop | None = None
) -> Tensor:
    """(2, pairs) log-probabilities of the base model: from the cache that training uses too, or computed and kept there."""
    weights = loading.weights_hash(base)
    scorer = _scorer(base, pairs, args.dtype)
    key = scorer_key(scorer, weights=weights, dtype=args.dtype)
    cache = ReferenceCache(args.reference_cache or cache_folder() / "reference", key)
    scores = cached_scores(scorer, pairs, cache, budget=budget, stop=stop)
    for remark in cache.remarks:
        print(remark, file=sys.stderr)
    return scores


def _scores(model: PreTrainedModel, pairs: Sequence[TokenPair], args: argparse.Namespace) -> Tensor:
    return score_pairs(_scorer(model, pairs, args.dtype), pairs, budget=_budget(model, args))


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
