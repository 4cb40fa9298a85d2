"""The check at the start: shared rows and our own head against the model as transformers runs it.

A few pairs of the run's own data are scored both ways, log-probabilities and gradients. A model that rules sharing out
gets plain rows, which is a note in the log. Numbers that differ by more than rounding, or layers of ours that fail, are
our mistake: the run goes on without them, and warns that it is slow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.memory import is_out_of_memory
from worker.dpo.model import layers
from worker.dpo.model.attention import NotShareable, require_shareable
from worker.dpo.model.scorer import PairScorer

PAIRS = 2
# Tokens of a prompt and of an answer: the check holds all logits, and must not be what a run needs most memory for.
PROMPT, ANSWER = 48, 24
# Largest relative difference that rounding explains (many norms compute in float32 even in a float64 model).
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


class Disagreement(ValueError):
    """Numbers that differ from those of the model's own forward by more than rounding."""


def choose_scorer(
    policy: nn.Module,
    pairs: Sequence[TokenPair],
    config: TrainConfig,
    *,
    log: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
) -> PairScorer:
    """The fastest scorer that agrees with plain rows on this model and data.

    log: told what was chosen, and why a model can't share prefixes. warn: told of failures of our own, which make the
    run slower than the model allows; `log` where it is None.
    """
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)
    tolerance = TOLERANCE[autocast or getattr(torch, config.dtype)]

    def scorer(*, shared: bool, own_head: bool) -> PairScorer:
        chunk = int(config.head_chunk_mb * 2**20)
        return PairScorer(policy, shared=shared, own_head=own_head, chunk_bytes=chunk, autocast=autocast)

    oracle = scorer(shared=False, own_head=False)
    candidates = [(True, True), (True, False), (False, False)]
    try:
        if config.share_prefix == "off":
            raise NotShareable("share_prefix is off")
        require_shareable(oracle.causal_lm)
    except NotShareable as reason:
        log(f"Prefix-shared rows can't be used: {reason}.")
        candidates = [(False, False)]
    sample = _sample(pairs)
    expected = _score(oracle, sample)
    refused: list[tuple[str, Exception]] = []
    chosen = oracle
    for shared, fused in candidates:
        candidate = scorer(shared=shared, own_head=True)
        try:
            if fused:
                layers.install(policy)
            compare(expected, _score(candidate, sample), tolerance)
        except (NotShareable, Disagreement, RuntimeError, TypeError) as reason:
            if is_out_of_memory(reason):
                raise
            layers.remove(policy)
            refused.append((f"{'Prefix-shared' if shared else 'Plain'} rows{' with fused layers' * fused}", reason))
        else:
            chosen = candidate
            break
    for name, why in refused:
        if isinstance(why, NotShareable) and not chosen.shared:
            log(f"{name} can't be used: {why}.")
        else:
            (warn or log)(f"{name} can't be used, so this run is slower than it could be: {why}.")
    if chosen is not oracle:
        log(f"{_name(chosen)}: checked against the model's own forward.")
    return chosen


def _name(scorer: PairScorer) -> str:
    rows = "Prefix-shared rows" if scorer.shared else "Plain rows"
    return rows + (" with fused layers" if scorer.fused_layers else "")


def compare(expected: tuple[Tensor, list[Tensor]], actual: tuple[Tensor, list[Tensor]], tolerance: float) -> None:
    """Raise Disagreement when log-probabilities or gradients differ by more than `tolerance` of their norm."""
    for what, left, right in (("log-probabilities", [expected[0]], [actual[0]]), ("gradients", expected[1], actual[1])):
        # One weight at a time: copies of all gradients together would be the most that a full fine-tuning ever holds.
        apart = sum(
            (one.double() - other.double()).square().sum().item() for one, other in zip(left, right, strict=True)
        )
        size = sum(one.double().square().sum().item() for one in left)
        difference = math.sqrt(apart / max(size, 1e-60))
        if not difference <= tolerance:
            raise Disagreement(
                f"its {what} would differ from plain rows by {difference:.1e} (rounding explains {tolerance:.0e})"
            )


def _sample(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The first pairs, cut short to both ends of the prompt, so that they begin alike if the data do, and to the answers' beginnings."""
    half = PROMPT // 2
    return [
        replace(
            pair,
            prompt_ids=pair.prompt_ids[:-half][:half] + pair.prompt_ids[-half:],
            chosen_ids=pair.chosen_ids[:ANSWER],
            rejected_ids=pair.rejected_ids[:ANSWER],
        )
        for pair in pairs[:PAIRS]
    ]


def _score(scorer: PairScorer, pairs: Sequence[TokenPair]) -> tuple[Tensor, list[Tensor]]:
    """(log-probabilities, gradients of a margin by each trainable weight), without touching `.grad` or any dropout."""
    training = scorer.training
    scorer.eval()
    try:
        logps = scorer(scorer.rows(pairs))
        # Not 1 : -1, whose gradients cancel where the two answers are alike.
        margin = (logps[0] - 0.5 * logps[1]).sum()
        weights = [weight for weight in scorer.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(margin, weights, allow_unused=True) if weights else ()
        return logps.detach(), [gradient for gradient in gradients if gradient is not None]
    finally:
        scorer.train(training)
