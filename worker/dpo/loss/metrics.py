"""What a set of scored pairs says: loss, rewards, accuracy with its interval, distance from the reference."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from worker.dpo.loss.pair_losses import PairLosses


def wilson_interval(successes: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest near 0 and 1 and for few pairs, unlike ±z·σ."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # At 0 and 1 the bounds meet the share, but for rounding.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def totals(losses: PairLosses, logps: Tensor) -> dict[str, Tensor]:
    """Sums over pairs under TRL's names, and `pairs`, float64 scalars. `logps/…` and `log_ratios/…`, in nats, are sums
    over a completion.

    They stay on their device: a GPU goes on working until someone reads them (`numbers`).
    """
    margins = losses.rewards_chosen - losses.rewards_rejected
    columns = {
        "loss": losses.loss.detach(),
        "rewards/chosen": losses.rewards_chosen,
        "rewards/rejected": losses.rewards_rejected,
        "rewards/margins": margins,
        "rewards/accuracies": (margins > 0).to(margins.dtype),
        "logps/chosen": logps[0].detach(),
        "logps/rejected": logps[1].detach(),
    } | {f"loss/{name}": value for name, value in losses.components.items()}
    if losses.log_ratios_chosen is not None and losses.log_ratios_rejected is not None:
        columns |= {"log_ratios/chosen": losses.log_ratios_chosen, "log_ratios/rejected": losses.log_ratios_rejected}
    columns["pairs"] = torch.ones_like(margins)
    return dict(zip(columns, torch.stack(list(columns.values())).double().sum(1).unbind(), strict=True))


def numbers(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """What `totals` counted, read from the device in one go."""
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)) if sums else {}


def means(sums: dict[str, float]) -> dict[str, float]:
    """What `numbers` read, per pair."""
    return {name: value / sums["pairs"] for name, value in sums.items() if name != "pairs"}


def evaluation(losses: PairLosses, logps: Tensor, reference: Tensor | None) -> dict[str, float]:
    """The means with `eval_` before each name, the accuracy's 95 % interval and the distance from the reference.

    eval_kl: mean of ½·(log π − log π_ref)² per completion, in nats: Schulman's k2 estimate of the KL divergence, on
    the split's own completions, good while the two models are close.
    """
    figures = means(numbers(totals(losses, logps)))
    count = logps.shape[1]
    low, high = wilson_interval((losses.rewards_chosen > losses.rewards_rejected).sum().item(), count)
    figures |= {"rewards/accuracies_low": low, "rewards/accuracies_high": high}
    if reference is not None:
        figures["kl"] = (0.5 * (logps.detach() - reference.to(logps)) ** 2).mean().item()
    return {f"eval_{name}": value for name, value in figures.items()} | {"eval_pairs": count}
