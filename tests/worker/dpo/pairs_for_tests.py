"""Random pairs of token ids, and one training run in a call."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tests.worker.dpo.tiny import save_tiny, toy_pairs, write_pairs
from worker.dpo.data.pairs import TokenPair

QUICK = ("report_to=[]", "sample_prompts=0", "batch_size=4", "learning_rate=1e-3", "lora_r=4")


def random_pairs(
    count: int, *, seed: int = 0, vocab: int = 250, lengths: Sequence[tuple[int, int, int]] | None = None
) -> list[TokenPair]:
    """Pairs of random ids with prompts of 1 to 20 tokens and answers of 1 to 12, or of the given lengths."""
    drawn = random.Random(seed)
    shapes = lengths or [(drawn.randint(1, 20), drawn.randint(1, 12), drawn.randint(1, 12)) for _ in range(count)]

    def ids(length: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(4, vocab) for _ in range(length))

    return [
        TokenPair(number + 1, ids(prompt), ids(chosen), ids(rejected))
        for number, (prompt, chosen, rejected) in enumerate(shapes)
    ]


def begin_alike(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """`pairs`, then as many of each kind of kinship: the same beginning of the prompt, the same prompt, one answer in
    common, answers that begin alike."""
    system, collected = tuple(range(5, 14)), list(pairs)
    for one, other in zip(pairs, [*pairs[1:], pairs[0]], strict=True):
        collected += [
            replace(one, prompt_ids=system + one.prompt_ids),
            replace(one, chosen_ids=other.chosen_ids, rejected_ids=other.rejected_ids),
            replace(one, rejected_ids=other.rejected_ids),
            replace(one, rejected_ids=one.chosen_ids + one.rejected_ids),
        ]
    return collected


def one_by_one(model: torch.nn.Module, pairs: Sequence[TokenPair]) -> torch.Tensor:
    """(2, pairs) log-probabilities from the model's own logits, one unpadded sequence at a time: the definition."""
    values = torch.zeros(2, len(pairs), dtype=torch.float64)
    rows = []
    for side in ("chosen_ids", "rejected_ids"):
        row = []
        for pair in pairs:
            completion = getattr(pair, side)
            ids = torch.tensor([[*pair.prompt_ids, *completion]])
            logits = model(input_ids=ids, use_cache=False).logits[0]
            logps = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
            first = len(pair.prompt_ids)
            row.append(
                sum((logps[first + place - 1, token] for place, token in enumerate(completion)), start=values[0, 0] * 0)
            )
        rows.append(torch.stack(row))
    return torch.stack(rows)


def run_folder(tmp_path: Path, *, pairs: int = 16, eval_pairs: int = 4) -> dict[str, Path]:
    """A tiny model and preference files in `tmp_path`."""
    return {
        "model": save_tiny(tmp_path / "model"),
        "data": write_pairs(tmp_path / "train.jsonl", toy_pairs(pairs)),
        "eval": write_pairs(tmp_path / "eval.jsonl", toy_pairs(pairs + eval_pairs)[pairs:]),
    }


def train_arguments(files: dict[str, Path], out: Path, *settings: str, evaluate: bool = False) -> list[str]:
    """Arguments of a short, quiet training run; later settings win."""
    arguments = ["train", "--model", str(files["model"]), "--data", str(files["data"]), "--out", str(out)]
    arguments += ["--eval-data", str(files["eval"])] if evaluate else []
    return arguments + [part for setting in (*QUICK, *settings) for part in ("--set", setting)]


def events_of(events: list[dict], name: str) -> list[dict]:
    return [event for event in events if event["event"] == name]
