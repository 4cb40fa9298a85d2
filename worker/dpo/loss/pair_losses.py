"""What pairs cost, given their log-probabilities, and the rewards of their answers.

Every loss sees a pair as two completions, the chosen `w` and the rejected `l`, each with the sum of its tokens'
log-probabilities under the policy and under the reference (nats) and its length (tokens).

Soft labels. Where evaluators disagreed, `p_chosen` is the share of them who chose `w`, and the loss is its expectation
over who is asked: p·L(w, l) + (1 - p)·L(l, w). For `sigmoid` that is -p·log σ(Δ) - (1 - p)·log σ(-Δ). `exo_pair` has a
preference distribution of its own, and p goes in there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.loss.formulas import Completion, Options
from worker.dpo.loss.registry import LOSS_TYPES, LossConfig, LossSpec


@dataclass
class RewardMean:
    """Running mean of all rewards seen, the δ of `bco_pair_shifted`: state that a resumed run needs."""

    mean: float = 0.0
    count: int = 0

    def update(self, rewards: Tensor) -> None:
        """Take in a step's rewards, chosen and rejected together, of all processes; any shape."""
        if rewards.numel() == 0:
            return
        self.count += rewards.numel()
        self.mean += (float(rewards.double().sum()) - rewards.numel() * self.mean) / self.count

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.mean, self.count = float(state["mean"]), int(state["count"])


@dataclass(frozen=True, slots=True)
class PairLosses:
    """Per pair, shape (pairs,): the loss times the pair's weight, and detached, in nats, what is reported beside it.

    Implicit rewards, and log-ratios log π(y|x) - log π_ref(y|x), which are None where there is no reference.
    """

    loss: Tensor
    rewards_chosen: Tensor
    rewards_rejected: Tensor
    log_ratios_chosen: Tensor | None = None
    log_ratios_rejected: Tensor | None = None
    components: dict[str, Tensor] = field(default_factory=dict)


def losses_of(
    loss: LossConfig,
    pairs: list[TokenPair],
    logps: Tensor,
    reference: Tensor | None,
    *,
    soft_labels: bool,
    reward_mean: float = 0.0,
) -> PairLosses:
    """Per-pair losses. logps, reference: (2, pairs), chosen first, in nats; reference may be None."""
    facts: dict[str, list[float] | Tensor | None] = {
        "len_chosen": [len(pair.chosen_ids) for pair in pairs],
        "len_rejected": [len(pair.rejected_ids) for pair in pairs],
        "weight": [pair.weight for pair in pairs],
    }
    # Not where all agree: the plain loss is the same, and half the work.
    if soft_labels and any(pair.p_chosen != 1 for pair in pairs):
        facts["p_chosen"] = [pair.p_chosen for pair in pairs]
    chosen, rejected = (None, None) if reference is None else reference
    facts |= {"ref_logps_chosen": chosen, "ref_logps_rejected": rejected}
    return pair_losses(
        loss,
        logps_chosen=logps[0],
        logps_rejected=logps[1],
        reward_mean=reward_mean,
        **_beside(logps, facts),
    )


def _beside(logps: Tensor, facts: Mapping[str, list[float] | Tensor | None]) -> dict[str, Any]:
    """The facts of each pair as tensors of the same type and on the same device as `logps`, sent there in one go."""
    columns = {name: torch.as_tensor(values).to(logps.dtype) for name, values in facts.items() if values is not None}
    table = torch.stack([column.cpu() for column in columns.values()])
    if logps.is_cuda:
        # From pinned memory, or the host would wait until the GPU has done the forward.
        table = table.pin_memory()
    moved = table.to(logps.device, non_blocking=logps.is_cuda)
    sent: dict[str, Any] = dict.fromkeys(facts)
    return sent | dict(zip(columns, moved.unbind(), strict=True))


def pair_losses(
    loss: LossConfig,
    *,
    logps_chosen: Tensor,
    logps_rejected: Tensor,
    ref_logps_chosen: Tensor | None,
    ref_logps_rejected: Tensor | None,
    len_chosen: Tensor,
    len_rejected: Tensor,
    p_chosen: Tensor | None = None,
    weight: Tensor | None = None,
    reward_mean: float = 0.0,
) -> PairLosses:
    """The loss of each pair and the rewards of its answers.

    All tensors are (pairs,); log-probabilities are sums over completion tokens in nats; p_chosen and weight default to
    1. The reference's may be None where `loss.uses_reference` is false. The rewards are β·r, or β·log π(y)/|y| for
    losses without a reference. `components` holds each term's mean per pair, unweighted, when there are several.
    """
    win = Completion(logps_chosen, ref_logps_chosen, len_chosen)
    lose = Completion(logps_rejected, ref_logps_rejected, len_rejected)
    p = None if p_chosen is None else p_chosen.to(logps_chosen.dtype)
    options = Options(loss.beta, loss.label_smoothing, loss.gamma, reward_mean)
    terms = [*loss.components, *([("sft", loss.sft_weight)] if loss.sft_weight else [])]
    values = {name: _expected(LOSS_TYPES[name], win, lose, options, p) for name, _ in terms}
    total = sum((weight_ * values[name] for name, weight_ in terms), start=torch.zeros_like(logps_chosen))
    rewards = [loss.beta * (c.log_ratio if loss.uses_reference else c.mean_logp).detach() for c in (win, lose)]
    log_ratios = [None if c.ref_logp is None else c.log_ratio.detach() for c in (win, lose)]
    return PairLosses(
        loss=total if weight is None else total * weight.to(total.dtype),
        rewards_chosen=rewards[0],
        rewards_rejected=rewards[1],
        log_ratios_chosen=log_ratios[0],
        log_ratios_rejected=log_ratios[1],
        components={name: value.detach() for name, value in values.items()} if len(terms) > 1 else {},
    )


def _expected(spec: LossSpec, win: Completion, lose: Completion, options: Options, p: Tensor | None) -> Tensor:
    """The loss averaged over which of the two answers an evaluator prefers: `win` with probability p, None: for certain."""
    if spec.soft_target:
        return spec.function(win, lose, options, torch.ones_like(win.logp) if p is None else p)
    if p is None:
        return spec.function(win, lose, options)
    return p * spec.function(win, lose, options) + (1 - p) * spec.function(lose, win, options)
