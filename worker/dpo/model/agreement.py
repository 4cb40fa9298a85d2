"""The check at the start: shared rows and our own head against the model as transformers runs it.

A few pairs of the run's own data are scored both ways, log-probabilities and gradients. Where they differ by more
than rounding, or the model rules sharing out, the run goes on with plain rows and says so.
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


def choose_scorer(
    policy: nn.Module, pairs: Sequence[TokenPair], config: TrainConfig, *, log: Callable[[str], None]
) -> PairScorer:
    """The fastest scorer that agrees with plain rows on this model and data."""
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)
    tolerance = TOLERANCE[autocast or getattr(torch, config.dtype)]

    def scorer(*, shared: bool, own_head: bool) -> PairScorer:
        chunk = int(config.head_chunk_mb * 2**20)
        return PairScorer(policy, shared=shared, own_head=own_head, chunk_bytes=chunk, autocast=autocast)

    oracle = scorer(shared=False, own_head=False)
    sample = _sample(pairs)
    expected = _score(oracle, sample)
    for shared, fast in ((True, True), (True, False), (False, False)):
        candidate = scorer(shared=shared, own_head=True)
        try:
            if shared and config.share_prefix == "off":
                raise NotShareable("share_prefix is off")
            if shared:
                require_shareable(candidate.causal_lm)
            if fast:
                layers.install(policy)
            compare(expected, _score(candidate, sample), tolerance)
        except (NotShareable, RuntimeError, TypeError) as reason:
            if is_out_of_memory(reason):
                raise
            layers.remove(policy)
            log(f"{_name(shared, fast)} can't be used: {reason}.")
            continue
        log(f"{_name(shared, fast)}: checked against the model's own forward.")
        return candidate
    return oracle


def _name(shared: bool, fast: bool) -> str:
    rows = "Prefix-shared rows" if shared else "Plain rows"
    return rows + (" with fused layers" if fast else "")


def compare(expected: tuple[Tensor, list[Tensor]], found: tuple[Tensor, list[Tensor]], tolerance: float) -> None:
    """Raise NotShareable when log-probabilities or gradients differ by more than `tolerance` of their norm."""
    for what, left, right in (("log-probabilities", [expected[0]], [found[0]]), ("gradients", expected[1], found[1])):
        # One weight at a time: copies of all gradients together would be the most that a full fine-tuning ever holds.
        apart = sum(
            (one.double() - other.double()).square().sum().item() for one, other in zip(left, right, strict=True)
        )
        size = sum(one.double().square().sum().item() for one in left)
        difference = math.sqrt(apart / max(size, 1e-60))
        if not difference <= tolerance:
            raise NotShareable(
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
