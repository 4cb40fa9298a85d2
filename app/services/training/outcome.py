"""What training changed on the eval pairs: before and after side by side, and what that allows to say. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric before and after. `share`: shown in percent; `low` and `high`: 95 % interval of `after`."""

    key: str
    label: str
    help: str
    before: float | None
    after: float | None
    share: bool = False
    low: float | None = None
    high: float | None = None
    by_chance: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone`: good, bad or unclear. `pairs`: eval pairs that it rests on."""

    tone: str
    sentence: str
    pairs: int
    figures: list[Figure]


FIGURES = (
    ("rewards/accuracies", "Reward accuracy", "Share of eval pairs in which the chosen answer gets the higher reward."),
    ("rewards/margins", "Reward margin", "Mean reward of chosen minus rejected answers; 0 before training."),
    ("loss", "Loss", "The training loss on eval pairs; lower is better."),
    ("kl", "Distance from the base", "Approximate KL divergence per answer on the eval pairs, in nats."),
)


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """From a checkpoint's or job's metrics {before: {eval_…}, after: {eval_…}}."""
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    pairs = int(after.get("eval_pairs") or 0)
    accuracy = _number(after, "rewards/accuracies")
    if not pairs or accuracy is None:
        return Verdict(
            "unclear", "Not evaluated: the snapshot kept no eval pairs, so nothing shows what changed.", 0, []
        )
    # Policy and reference start equal: every margin is 0, nobody is preferred, and the accuracy there means nothing.
    untrained = abs(_number(before, "rewards/margins") or 0.0) < 1e-6
    baseline = CHANCE if untrained else _number(before, "rewards/accuracies") or CHANCE
    low, high = _number(after, "rewards/accuracies_low"), _number(after, "rewards/accuracies_high")
    return Verdict(
        _tone(baseline, low, high),
        _sentence(baseline, untrained, accuracy, low, high, pairs),
        pairs,
        [_figure(spec, before, after, untrained) for spec in FIGURES],
    )


def _tone(baseline: float, low: float | None, high: float | None) -> str:
    if low is not None and low > baseline:
        return "good"
    return "bad" if high is not None and high < baseline else "unclear"


def _sentence(
    baseline: float, untrained: bool, accuracy: float, low: float | None, high: float | None, pairs: int
) -> str:
    tone = _tone(baseline, low, high)
    start = {"good": "It learned the preference", "bad": "It learned the opposite", "unclear": "No clear change yet"}[
        tone
    ]
    interval = f" (95 % interval {100 * low:.0f}–{100 * high:.0f} %)" if low is not None and high is not None else ""
    against = f"chance is {100 * CHANCE:.0f} %" if untrained else f"{100 * baseline:.0f} % before"
    text = f"{start}: the chosen answer wins in {100 * accuracy:.0f} % of {pairs} eval pairs{interval}; {against}."
    if tone == "unclear":
        text += " More judgments, more epochs or a higher learning rate would tell."
    return text


def _figure(spec: tuple[str, str, str], before: Mapping[str, Any], after: Mapping[str, Any], untrained: bool) -> Figure:
    key, label, help_text = spec
    share = key == "rewards/accuracies"
    return Figure(
        key,
        label,
        help_text,
        None if share and untrained else _number(before, key),
        _number(after, key),
        share,
        _number(after, f"{key}_low") if share else None,
        _number(after, f"{key}_high") if share else None,
        share and untrained,
    )


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(f"eval_{key}")
    return float(value) if isinstance(value, int | float) else None
