"""What a dataset looks like before and after it is frozen: statistics, warnings, one sentence. Pure."""

from collections.abc import Mapping

from app.models import Agreed, Counts, Evaluator, Sides, Source, Statistics, Warned
from app.services.datasets.collected import Collected
from app.services.datasets.rules import LEFT_OUT
from app.stats.agreement import Agreement
from app.stats.lengths import lengths
from app.stats.shares import share

FEW_TRAIN_PAIRS = 100
FEW_EVAL_PAIRS = 20
FEW_FOR_A_SHARE = 20  # below it, a share of pairs says nothing


def counts(collected: Collected) -> Counts:
    return Counts(
        comparisons=collected.comparisons,
        judgments=collected.judgments,
        pairs=collected.pairs,
        train=collected.pairs - collected.evaluated,
        eval=collected.evaluated,
        left_out={reason: collected.left_out[reason] for reason in LEFT_OUT if collected.left_out[reason]},
        excluded_judgments=collected.excluded_judgments,
    )


def statistics(collected: Collected) -> Statistics:
    """Everything but the warnings; see `warnings`."""
    import numpy as np  # here, not above: every process imports the services, and few describe a dataset

    chosen, rejected = (np.asarray(side) for side in collected.characters)
    _, repeated = np.unique(np.asarray(collected.texts), return_counts=True)
    agreed = collected.votes.agreement()
    return Statistics(
        prompts=len(np.unique(np.asarray(collected.prompts))),
        characters=Sides(*(lengths(side) for side in collected.characters)),
        words=Sides(*(lengths(side) for side in collected.words)),
        chosen_longer=share(int((chosen > rejected).sum()), int((chosen != rejected).sum())),
        left_picked=share(collected.left_picked, collected.sided),
        repeated_chosen=int(repeated[repeated > 1].sum()),
        sources=[
            Source(name, collected.chosen_from[name], total) for name, total in collected.taken_from.most_common(20)
        ],
        mean_weight=_mean(collected.weight, collected.pairs),
        mean_p_chosen=_mean(collected.p_chosen, collected.pairs),
        evaluators=_evaluators(collected, agreed),
        imported=collected.imported,
        agreement=Agreed(agreed.units, agreed.same, agreed.alpha),
        arms=dict(sorted(collected.arms.items())),
        random_eval=collected.random_eval,
    )


def _mean(total: float, count: int) -> float | None:
    return round(total / count, 4) if count else None


def _evaluators(collected: Collected, agreed: Agreement) -> list[Evaluator]:
    """The people by how much they judged, the busiest first."""
    made = collected.votes.made
    total = made.total() + collected.imported
    evaluators = []
    for user_id, count in made.most_common():
        assert isinstance(user_id, int)
        same, pairs = agreed.by_rater.get(user_id, (0, 0))
        evaluators.append(
            Evaluator(
                user_id=user_id,
                name=collected.names.get(user_id, ""),
                judgments=count,
                share=count / total,
                agreement=same / pairs if pairs else None,
                overlap=pairs,
            )
        )
    return evaluators


def warnings(counts: Counts, statistics: Statistics) -> tuple[Warned, ...]:
    """What to think about before training."""
    return tuple(filter(None, (check(counts, statistics) for check in CHECKS)))


def _too_few_pairs(counts: Counts, _: Statistics) -> Warned | None:
    if not 0 < counts.train < FEW_TRAIN_PAIRS:
        return None
    return Warned(
        "too_few_pairs",
        f"Only {_many(counts.train, 'pair')} to train on: the model will learn little, or learn these by heart. "
        "Several hundred make a difference that people notice.",
    )


def _too_few_to_evaluate(counts: Counts, _: Statistics) -> Warned | None:
    if counts.eval == 0:
        return Warned(
            "no_eval_pairs",
            "No pair is kept for evaluation, so nothing will show whether the model got better on "
            "prompts that it hasn't seen.",
        )
    if counts.eval >= FEW_EVAL_PAIRS:
        return None
    return Warned(
        "few_eval_pairs",
        f"Only {_many(counts.eval, 'pair')} for evaluation: one pair more or less moves the "
        f"accuracy by {100 / counts.eval:.0f} points.",
    )


def _one_evaluator(_: Counts, statistics: Statistics) -> Warned | None:
    if not statistics.evaluators or statistics.evaluators[0].share <= 0.8:
        return None
    busiest = statistics.evaluators[0]
    return Warned(
        "one_evaluator",
        f"{busiest.name or 'One person'} made {100 * busiest.share:.0f} % of the judgments: the model "
        "will learn one person's taste.",
    )


def _chosen_is_longer(_: Counts, statistics: Statistics) -> Warned | None:
    longer = statistics.chosen_longer
    if longer.share is None or longer.total < FEW_FOR_A_SHARE or longer.share <= 0.7:
        return None
    return Warned(
        "chosen_longer",
        f"The chosen answer is the longer one in {100 * longer.share:.0f} % of the pairs: the model may "
        "learn to write long rather than well.",
    )


def _position_bias(_: Counts, statistics: Statistics) -> Warned | None:
    left = statistics.left_picked
    if left.share is None or left.total < FEW_FOR_A_SHARE or not left.differs_from_half:
        return None
    return Warned(
        "position_bias",
        f"{100 * max(left.share, 1 - left.share):.0f} % of the picks fell on the {'left' if left.share > 0.5 else 'right'} "
        "answer, more than chance explains, though sides are drawn at random: some may have been made without reading.",
    )


def _low_agreement(_: Counts, statistics: Statistics) -> Warned | None:
    agreed = statistics.agreement
    if agreed.alpha is None or agreed.comparisons < FEW_FOR_A_SHARE or agreed.alpha >= 0.4:
        return None
    return Warned(
        "low_agreement",
        f"People who judged the same pair agree little (Krippendorff's alpha {agreed.alpha:.2f}): clearer "
        "guidelines would make the data worth more.",
    )


def _repeated_chosen(counts: Counts, statistics: Statistics) -> Warned | None:
    repeated = statistics.repeated_chosen
    if not counts.pairs or repeated < 5 or repeated <= 0.1 * counts.pairs:
        return None
    return Warned(
        "repeated_chosen",
        f"{repeated} chosen answers have the same text as another chosen answer: the "
        "model may learn to say it everywhere.",
    )


CHECKS = (
    _too_few_pairs,
    _too_few_to_evaluate,
    _one_evaluator,
    _chosen_is_longer,
    _position_bias,
    _low_agreement,
    _repeated_chosen,
)


def sentence(counts: Counts) -> str:
    """One sentence that says what would be trained on and what is left out."""
    text = (
        f"{_many(counts.train, 'pair')} to train on and {_many(counts.eval, 'pair')} to evaluate with, from "
        f"{_many(counts.judgments, 'judgment')} of {_many(counts.comparisons, 'comparison')}"
    )
    if counts.excluded_judgments:
        text += f" ({_many(counts.excluded_judgments, 'more judgment')} excluded)"
    left_out = left_out_text(counts.left_out)
    return f"{text}; left out: {left_out}." if left_out else f"{text}."


def left_out_text(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {LEFT_OUT[reason]}" for reason, count in left_out.items())


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
