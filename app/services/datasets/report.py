"""What a dataset looks like before and after it is frozen: statistics, warnings, one sentence. Pure."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from app.models import Split
from app.services.datasets.rules import LEFT_OUT, Verdict
from app.stats.agreement import agreement
from app.stats.lengths import lengths
from app.stats.shares import Share, share

FEW_TRAIN_PAIRS = 100
FEW_EVAL_PAIRS = 20
FEW_FOR_A_SHARE = 20  # below it, a share of pairs says nothing


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison that goes into the files; lengths are (chosen, rejected)."""

    comparison_id: int
    prompt_id: int
    split: Split
    verdict: Verdict
    characters: tuple[int, int]
    words: tuple[int, int]
    chosen_hash: str
    sources: tuple[str, str]


@dataclass
class Collected:
    """What the rule made of a project. `votes`: (comparison, person, choice) without skips and imported judgments,
    of which there are `imported`; `left_picked` of `sided` picks fell on the left answer; `names` are people's."""

    comparisons: int = 0
    judgments: int = 0
    pairs: list[Pair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    votes: list[tuple[int, int, str]] = field(default_factory=list)
    imported: int = 0
    left_picked: int = 0
    sided: int = 0
    names: dict[int, str] = field(default_factory=dict)


def counts(found: Collected) -> dict[str, Any]:
    evaluated = sum(pair.split is Split.EVAL for pair in found.pairs)
    return {
        "comparisons": found.comparisons,
        "judgments": found.judgments,
        "pairs": len(found.pairs),
        "train": len(found.pairs) - evaluated,
        "eval": evaluated,
        "left_out": {reason: found.left_out[reason] for reason in LEFT_OUT if found.left_out[reason]},
    }


def statistics(found: Collected) -> dict[str, Any]:
    pairs = found.pairs
    different = [pair for pair in pairs if pair.characters[0] != pair.characters[1]]
    longer = share(sum(pair.characters[0] > pair.characters[1] for pair in different), len(different))
    repeated = Counter(pair.chosen_hash for pair in pairs)
    return {
        "prompts": len({pair.prompt_id for pair in pairs}),
        "characters": {
            side: asdict(lengths([pair.characters[at] for pair in pairs]))
            for at, side in enumerate(("chosen", "rejected"))
        },
        "words": {
            side: asdict(lengths([pair.words[at] for pair in pairs])) for at, side in enumerate(("chosen", "rejected"))
        },
        "chosen_longer": asdict(longer),
        "left_picked": asdict(share(found.left_picked, found.sided)),
        "repeated_chosen": sum(count for count in repeated.values() if count > 1),
        "sources": _sources(pairs),
        "mean_weight": round(sum(pair.verdict.weight for pair in pairs) / len(pairs), 4) if pairs else None,
        "mean_p_chosen": round(sum(pair.verdict.p_chosen for pair in pairs) / len(pairs), 4) if pairs else None,
        **_people(found),
    }


def _sources(pairs: list[Pair]) -> list[dict[str, Any]]:
    """How often each source's answers were chosen, in pairs from two different sources."""
    chosen: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for pair in pairs:
        if pair.sources[0] != pair.sources[1]:
            chosen[pair.sources[0]] += 1
            taken.update(pair.sources)
    return [{"name": name, "chosen": chosen[name], "pairs": total} for name, total in taken.most_common(20)]


def _people(found: Collected) -> dict[str, Any]:
    made = Counter(user_id for _, user_id, _ in found.votes)
    agreed = agreement(found.votes)
    evaluators = []
    total = len(found.votes) + found.imported
    for user_id, count in made.most_common():
        same, pairs = agreed.by_rater.get(user_id, (0, 0))
        evaluators.append(
            {
                "user_id": user_id,
                "name": found.names.get(user_id, ""),
                "judgments": count,
                "share": count / total,
                "agreement": same / pairs if pairs else None,
                "overlap": pairs,
            }
        )
    return {
        "evaluators": evaluators,
        "imported": found.imported,
        "agreement": {"comparisons": agreed.units, "same": agreed.same, "alpha": agreed.alpha},
    }


def warnings(numbers: dict[str, Any], facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(code, text) for each thing to think about before training; `numbers` and `facts` as made above."""
    found = []
    train, evaluated, pairs = numbers["train"], numbers["eval"], numbers["pairs"]
    if 0 < train < FEW_TRAIN_PAIRS:
        found.append(
            (
                "too_few_pairs",
                f"Only {_many(train, 'pair')} to train on: the model will learn little, or learn these by heart. "
                "Several hundred make a difference that people notice.",
            )
        )
    if evaluated == 0:
        found.append(
            (
                "no_eval_pairs",
                "No pair is kept for evaluation, so nothing will show whether the model got better on "
                "prompts that it hasn't seen.",
            )
        )
    elif evaluated < FEW_EVAL_PAIRS:
        found.append(
            (
                "few_eval_pairs",
                f"Only {_many(evaluated, 'pair')} for evaluation: one pair more or less moves the "
                f"accuracy by {100 / evaluated:.0f} points.",
            )
        )
    if facts["evaluators"] and facts["evaluators"][0]["share"] > 0.8:
        busiest = facts["evaluators"][0]
        found.append(
            (
                "one_evaluator",
                f"{busiest['name'] or 'One person'} made {busiest['share']:.0%} of the judgments: the model "
                "will learn one person's taste.",
            )
        )
    longer = Share(**facts["chosen_longer"])
    if longer.share is not None and longer.total >= FEW_FOR_A_SHARE and longer.share > 0.7:
        found.append(
            (
                "chosen_longer",
                f"The chosen answer is the longer one in {longer.share:.0%} of the pairs: the model may "
                "learn to write long rather than well.",
            )
        )
    left = Share(**facts["left_picked"])
    if left.share is not None and left.total >= FEW_FOR_A_SHARE and left.differs_from_half:
        side = left.share if left.share > 0.5 else 1 - left.share
        found.append(
            (
                "position_bias",
                f"{side:.0%} of the picks fell on the {'left' if left.share > 0.5 else 'right'} answer, more "
                "than chance explains, though sides are drawn at random: some may have been made without reading.",
            )
        )
    alpha = facts["agreement"]["alpha"]
    if alpha is not None and facts["agreement"]["comparisons"] >= FEW_FOR_A_SHARE and alpha < 0.4:
        found.append(
            (
                "low_agreement",
                f"People who judged the same pair agree little (Krippendorff's alpha {alpha:.2f}): clearer "
                "guidelines would make the data worth more.",
            )
        )
    if pairs and facts["repeated_chosen"] > 0.1 * pairs and facts["repeated_chosen"] >= 5:
        found.append(
            (
                "repeated_chosen",
                f"{facts['repeated_chosen']} chosen answers have the same text as another chosen answer: the "
                "model may learn to say it everywhere.",
            )
        )
    return found


def sentence(numbers: dict[str, Any]) -> str:
    """One sentence that says what would be trained on and what is left out."""
    text = (
        f"{_many(numbers['train'], 'pair')} to train on and {_many(numbers['eval'], 'pair')} to evaluate with, from "
        f"{_many(numbers['judgments'], 'judgment')} of {_many(numbers['comparisons'], 'comparison')}"
    )
    left_out = left_out_text(numbers["left_out"])
    return f"{text}; left out: {left_out}." if left_out else f"{text}."


def left_out_text(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {LEFT_OUT[reason]}" for reason, count in left_out.items())


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
