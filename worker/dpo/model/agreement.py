"""The check at the start: shared rows and our own head against the model as transformers runs it.

A few pairs of the run's own data are scored both ways, log-probabilities and gradients. A model that rules sharing out
gets plain rows, which is a note in the log. Numbers that differ by more than rounding, or layers of ours that fail, are
our mistake: the run goes on without them, and warns that it is slow.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.memory import is_out_of_memory
from worker.dpo.model.attention import NotShareable, require_shareable
from worker.dpo.model.loading import as_reference
from worker.dpo.model.scorer import PairScorer

PAIRS = 2
# Tokens of a prompt and of an answer: the check holds all logits, and must not be what a run needs most memory for.
PROMPT, ANSWER = 48, 24
# Largest relative difference that rounding explains (many norms compute in float32 even in a float64 model).
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


class Disagreement(ValueError):
    """Numbers that differ from those of the model's own forward by more than rounding."""


# What layers and rows of ours may fail with. Compilers raise errors of many kinds.
KNOWN = (NotShareable, Disagreement, RuntimeError, TypeError)


def choose_scorer(
    policy: nn.Module,
    pairs: Sequence[TokenPair],
    config: TrainConfig,
    *,
    compile_layers: bool = False,
    scores: Collection[bool] = (),
    log: Callable[[str], None],
    warn: Callable[[str, str], None] | None = None,
) -> PairScorer:
    """The fastest scorer that agrees with plain rows on this model and data.

    compile_layers: try compiled layers first. scores: how the run scores without gradients, with the adapter off (True) or
    on: compiled layers are tried in these forms too, since a run can't change them once it began. log: told what was
    chosen, and why a model can't share prefixes. warn: told of failures of our own, which make the run slower than the
    model allows, and which layers failed, `compiled` or `fused`; `log` where it is None.
    """
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)

    def scorer(*, shared: bool, own_head: bool) -> PairScorer:
        chunk = int(config.head_chunk_mb * 2**20)
        return PairScorer(policy, shared=shared, own_head=own_head, chunk_bytes=chunk, autocast=autocast)

    oracle = scorer(shared=False, own_head=False)
    # The model's own type: a configuration may say `auto`.
    tolerance = TOLERANCE[autocast or oracle.causal_lm.dtype]
    candidates = [(True, "compiled"), (True, "partly compiled")] if compile_layers else []
    candidates += [(True, "fused"), (True, ""), (False, "")]
    try:
        if config.share_prefix == "off":
            raise NotShareable("share_prefix is off")
        require_shareable(oracle.causal_lm)
    except NotShareable as reason:
        log(f"Prefix-shared rows can't be used: {reason}.")
        candidates = [(False, "")]
    sample = _sample(pairs)
    expected = _score(oracle, sample)
    expected_scores = {adapter_off: _logps(oracle, sample, adapter_off) for adapter_off in scores if compile_layers}
    refused: list[tuple[bool, str, Exception]] = []
    chosen = oracle
    for shared, kind in candidates:
        candidate = scorer(shared=shared, own_head=True)
        try:
            if kind:
                candidate.use_layers(kind)
            compare(expected, _score(candidate, sample), tolerance)
            if kind.endswith("compiled"):
                _compile_the_rest(candidate, sample, expected_scores, tolerance)
        except Exception as reason:
            if is_out_of_memory(reason) or not (kind.endswith("compiled") or isinstance(reason, KNOWN)):
                raise
            candidate.use_layers("")
            refused.append((shared, kind, reason))
        else:
            chosen = candidate
            break
    for shared, kind, why in refused:
        if isinstance(why, NotShareable) and not chosen.shared:
            log(f"{_name(shared, kind)} can't be used: {why}.")
        else:
            what = f"{_name(shared, kind)} can't be used, so this run is slower than it could be: {_short(why)}."
            log(what) if warn is None else warn(what, kind.split()[-1] if kind else "fused")
    if chosen is not oracle:
        kind = "compiled" if chosen.compiled_layers else "fused" if chosen.fused_layers else ""
        log(f"{_name(chosen.shared, kind)}: checked against the model's own forward.")
    return chosen


def _name(shared: bool, kind: str) -> str:
    return f"{'Prefix-shared' if shared else 'Plain'} rows" + f" with {kind} layers" * bool(kind)


def _short(reason: Exception) -> str:
    """A compiler's error is pages long."""
    text = str(reason).strip() or type(reason).__name__
    return text if len(text) <= 400 else text[:400].rsplit(" ", 1)[0] + " …"


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


def _compile_the_rest(
    scorer: PairScorer, pairs: Sequence[TokenPair], expected: Mapping[bool, Tensor], tolerance: float
) -> None:
    """Have layers compiled in the other forms that a run calls them in: with dropout, and to score without gradients.

    expected: log-probabilities by whether the adapter is off. Raises whatever a compiler fails with, and Disagreement.
    """
    if _has_dropout(scorer):
        training = scorer.training
        scorer.train()
        weights = [weight for weight in scorer.parameters() if weight.requires_grad]
        try:
            with torch.random.fork_rng(devices=[scorer.device] if scorer.device.type == "cuda" else []):
                torch.autograd.grad(scorer(scorer.rows(pairs)).sum(), weights, allow_unused=True)
        finally:
            scorer.train(training)
    for adapter_off, logps in expected.items():
        compare((logps, []), (_logps(scorer, pairs, adapter_off), []), tolerance)


def _logps(scorer: PairScorer, pairs: Sequence[TokenPair], adapter_off: bool) -> Tensor:
    """(2, pairs) log-probabilities as a run scores its reference or an evaluation."""
    with as_reference(scorer.model, adapter_off=adapter_off):
        logps: Tensor = scorer(scorer.rows(pairs))
        return logps


def _score(scorer: PairScorer, pairs: Sequence[TokenPair]) -> tuple[Tensor, list[Tensor]]:
    """(log-probabilities, gradients of a margin by each trainable weight), without touching `.grad` or any dropout."""
    training = scorer.training
    # As in training, or layers would be compiled once more for it.
    scorer.train(not _has_dropout(scorer))
    try:
        logps = scorer(scorer.rows(pairs))
        # Not 1 : -1, whose gradients cancel where the two answers are alike.
        margin = (logps[0] - 0.5 * logps[1]).sum()
        weights = [weight for weight in scorer.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(margin, weights, allow_unused=True) if weights else ()
        return logps.detach(), [gradient for gradient in gradients if gradient is not None]
    finally:
        scorer.train(training)


def _has_dropout(scorer: PairScorer) -> bool:
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in scorer.modules())
