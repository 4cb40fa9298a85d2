"""What training changed: before and after side by side, and no more than that allows to say. Pure.

Ranking the eval pairs as people did is one thing, answering otherwise another, answering better a third: only people can
say that. So a sentence never claims the second from the first, or the third at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHANCE = 0.5
MORE = "More judgments, more epochs or a higher learning rate"
REPEATS = 0.1  # a rise of the share of repeated 4-grams that people notice: a sentence in ten said again


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric before and after, None where it wasn't measured. `share`: shown in percent; `low` and `high`: 95 %
    interval of `after`. `of`: the number that `before` and `after` are counts out of."""

    key: str
    label: str
    help: str
    before: float | None
    after: float | None
    share: bool = False
    low: float | None = None
    high: float | None = None
    by_chance: bool = False
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone`: good, bad or unclear. `warnings`: what to look at before anybody uses it. `pairs`: eval pairs that it rests
    on; `prompts`: eval prompts that the model answered before and after."""

    tone: str
    sentence: str
    pairs: int
    figures: list[Figure]
    warnings: list[str] = field(default_factory=list)
    prompts: int = 0
    answers: list[Figure] = field(default_factory=list)


FIGURES = (
    ("rewards/accuracies", "Reward accuracy", "Share of eval pairs in which the chosen answer gets the higher reward."),
    ("rewards/margins", "Reward margin", "Mean reward of chosen minus rejected answers; 0 before training."),
    ("loss", "Loss", "The training loss on eval pairs; lower is better."),
    (
        "logps/chosen",
        "Chosen answers, log p in nats",
        "Mean log-probability of a chosen answer, in nats; higher: more likely.",
    ),
    ("logps/rejected", "Rejected answers, log p in nats", "Mean log-probability of a rejected answer, in nats."),
    ("kl", "Distance from its start in nats", "Approximate KL divergence per answer on the eval pairs, in nats."),
)


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """From a checkpoint's or job's metrics {before: {eval_…}, after: {eval_…}, answers: {prompts, changed, …}}.

    `answers` is what the engine's `data.answers.compared` gives; checkpoints of the first release lack it.
    """
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    answers = metrics.get("answers") or {}
    prompts = _count(answers, "prompts")
    told: dict[str, Any] = {"prompts": prompts, "answers": _answer_figures(answers) if prompts else []}
    warnings = _warnings(before, after, answers)
    pairs = int(after.get("eval_pairs") or 0)
    accuracy = _number(after, "rewards/accuracies")
    if not pairs or accuracy is None:
        nothing = "The snapshot kept no eval pairs, so nothing shows whether it ranks answers as people do"
        return Verdict("unclear", f"{nothing}{_and_answers(answers)}.", 0, [], warnings, **told)
    # Policy and reference start equal: every margin is 0, nobody is preferred, and the accuracy there means nothing.
    untrained = abs(_number(before, "rewards/margins") or 0.0) < 1e-6
    baseline = CHANCE if untrained else _number(before, "rewards/accuracies") or CHANCE
    tone = _tone(baseline, _number(after, "rewards/accuracies_low"), _number(after, "rewards/accuracies_high"))
    sentence = _sentence(tone, after, pairs, "" if untrained else f"{100 * baseline:.0f} % before")
    return Verdict(
        "unclear" if tone == "good" and _is_unchanged(answers) else tone,
        f"{sentence}{_so(tone, answers)}",
        pairs,
        [_figure(spec, before, after, untrained) for spec in FIGURES],
        warnings,
        **told,
    )


def _tone(baseline: float, low: float | None, high: float | None) -> str:
    if low is not None and low > baseline:
        return "good"
    return "bad" if high is not None and high < baseline else "unclear"


def _sentence(tone: str, after: Mapping[str, Any], pairs: int, baseline: str) -> str:
    """How it ranks the eval pairs. baseline: the accuracy before training, in words; empty: it was chance."""
    accuracy = _number(after, "rewards/accuracies") or 0.0
    low, high = _number(after, "rewards/accuracies_low"), _number(after, "rewards/accuracies_high")
    interval = f"95 % interval {100 * low:.0f}–{100 * high:.0f} %; " if low is not None and high is not None else ""
    start = {"good": "It ranks", "bad": "It learned the opposite: it ranks", "unclear": "No clear change yet: it ranks"}
    return (
        f"{start[tone]} {round(accuracy * pairs)} of {pairs} eval pairs as people did "
        f"({interval}{baseline or 'chance is 50 %'})"
    )


def _so(tone: str, answers: Mapping[str, Any]) -> str:
    """The end of the sentence: whether it also answers otherwise, and what to do where that says nothing yet."""
    prompts, changed = _count(answers, "prompts"), _count(answers, "changed")
    if not prompts:
        return "." if tone != "unclear" else f". {MORE} would tell."
    if _is_unchanged(answers):
        but = ", but answers" if tone == "good" else " and answers"
        return f"{but} as before: none of {prompts} greedy answers changed. {MORE} would show more."
    text = f", and {changed} of {prompts} greedy answers changed."
    if tone == "good":
        return f"{text} Whether they are better, people have to say."
    return f"{text} {MORE} would tell." if tone == "unclear" else text


def _and_answers(answers: Mapping[str, Any]) -> str:
    prompts = _count(answers, "prompts")
    return f"; {_count(answers, 'changed')} of {prompts} greedy answers changed" if prompts else ""


def _is_unchanged(answers: Mapping[str, Any]) -> bool:
    return _count(answers, "prompts") > 0 and _count(answers, "changed") == 0


def _warnings(before: Mapping[str, Any], after: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """What goes wrong in preference training although the accuracy looks well."""
    warnings = []
    was, now = _style(answers, "before"), _style(answers, "after")
    if now.get("repetition", 0.0) - was.get("repetition", 0.0) >= REPEATS:
        warnings.append(
            "Its answers repeat themselves more than before: a lower learning rate or fewer epochs may help."
        )
    if now.get("ended", 0) < was.get("ended", 0):
        warnings.append(
            f"Fewer answers end by themselves: {now['ended']:.0f} of {_count(answers, 'prompts')}, {was['ended']:.0f} before."
        )
    chosen_before, chosen_after = _number(before, "logps/chosen"), _number(after, "logps/chosen")
    if chosen_before is not None and chosen_after is not None and chosen_after < chosen_before:
        # Likelihood displacement: Razin et al. 2024, arXiv:2410.08847.
        warnings.append(
            "The chosen answers became less likely too, if less so than the rejected ones. "
            "Where that goes far, the model answers with something that nobody chose: an SFT weight holds against it."
        )
    return warnings


def _answer_figures(answers: Mapping[str, Any]) -> list[Figure]:
    was, now, prompts = _style(answers, "before"), _style(answers, "after"), _count(answers, "prompts")
    return [
        Figure("changed", "Answers that changed", "Greedy answers that differ in a token.", None,
               _count(answers, "changed"), of=prompts),
        Figure("tokens", "Length in tokens", "Mean length of a greedy answer, in tokens.", was.get("tokens"), now.get("tokens")),
        Figure("ended", "Ended by themselves", "Greedy answers that the model ended, not the limit on their length.",
               was.get("ended"), now.get("ended"), of=prompts),
        Figure("repetition", "Repetition", "Share of four tokens in a row that stood in the same answer before.",
               was.get("repetition"), now.get("repetition"), share=True),
    ]  # fmt: skip


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


def _count(answers: Mapping[str, Any], key: str) -> int:
    value = answers.get(key)
    return int(value) if isinstance(value, int | float) else 0


def _style(answers: Mapping[str, Any], phase: str) -> dict[str, float]:
    style = answers.get(phase)
    return {key: float(value) for key, value in style.items()} if isinstance(style, Mapping) else {}
