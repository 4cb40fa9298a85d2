"""From raw votes to pairs: the rule by which a snapshot is made. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from app.errors import Invalid
from app.models import Choice

# Why a comparison is left out, in the order in which people are told.
LEFT_OUT = {
    "excluded": "excluded",
    "trained_before": "that the checkpoint to start from was trained on",
    "not_judged": "without a judgment",
    "too_few_judgments": "with too few judgments",
    "tie": "judged a tie",
    "both_bad": "with two bad answers",
    "skipped": "skipped by everybody so far",
    "no_majority": "without a majority",
    "flagged": "flagged as unfit",
    "near_duplicate": "nearly the same as a prompt kept for evaluation",
    "kept": "of prompts kept for evaluation",
    "gold": "kept as gold questions",
    "trial": "left out to see what an arm bought",
}


@dataclass(frozen=True)
class Rule:
    """How votes become a pair.

    min_judgments: votes (skips don't count) that a comparison needs.
    include_late: count judgments that came after their lease had passed to somebody else.
    include_flagged: keep pairs that an evaluator flagged as unfit.
    include_near_duplicates: train also on pairs whose prompt is a near duplicate of one that is kept for evaluation.
    soft_labels: `p_chosen` is the chosen answer's share of the votes (a tie is half a vote for each) instead of 1.
    weights: "equal", or "strength" (the mean of the winning votes: slightly 0.5, clearly 1, far 1.5, unsaid 1).
    new_to_checkpoint: train only on pairs that aren't in the snapshots of this checkpoint and of those that it comes from; the
    eval split stays whole. 0: on all.
    """

    min_judgments: int = 1
    include_late: bool = True
    include_flagged: bool = False
    include_near_duplicates: bool = False
    soft_labels: bool = False
    weights: str = "equal"
    new_to_checkpoint: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "Rule":
        """Raises Invalid for an unknown key or a value out of range."""
        values = dict(values or {})
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise Invalid(
                f"“{str(unknown[0])[:40]}” isn't part of a snapshot's rule.",
                f"Known: {', '.join(known)}.",
                field="rule",
            )
        for key, value in values.items():
            if type(value) is not type(known[key].default):
                raise Invalid(
                    f"{key} can't be {str(value)[:40]!r}.", f"Give a {type(known[key].default).__name__}.", field=key
                )
        rule = cls(**values)
        if not 1 <= rule.min_judgments <= 25:
            raise Invalid(f"min_judgments is {rule.min_judgments}.", "Choose 1 to 25.", field="min_judgments")
        if rule.weights not in ("equal", "strength"):
            raise Invalid(f"weights can't be {rule.weights[:40]!r}.", "Choose equal or strength.", field="weights")
        if not 0 <= rule.new_to_checkpoint < 2**31:
            raise Invalid(
                f"There is no checkpoint {rule.new_to_checkpoint}.",
                "Look at the list of checkpoints.",
                field="new_to_checkpoint",
            )
        return rule

    def as_dict(self) -> dict[str, Any]:
        """As rows keep it. A rule that starts from no checkpoint is as it was before there was a choice."""
        return {name: value for name, value in asdict(self).items() if name != "new_to_checkpoint" or value}


@dataclass(frozen=True)
class Vote:
    """One current judgment, as far as the rule looks at it."""

    user_id: int
    choice: Choice
    strength: int | None
    late: bool
    flagged: bool


@dataclass(frozen=True)
class Decision:
    """The winner of a comparison, or why there is none (`left_out`, a key of LEFT_OUT)."""

    left_out: str = ""
    chosen: Choice | None = None
    weight: float = 1.0
    p_chosen: float = 1.0
    votes: int = 0
    votes_chosen: int = 0


def decide(votes: Sequence[Vote], rule: Rule) -> Decision:
    """The choice that more people made than any other wins; a draw leaves the comparison out."""
    if any(vote.flagged for vote in votes) and not rule.include_flagged:
        return Decision("flagged")
    counted = [vote for vote in votes if vote.choice is not Choice.SKIP and (rule.include_late or not vote.late)]
    if not counted:
        return Decision("skipped" if any(vote.choice is Choice.SKIP for vote in votes) else "not_judged")
    if len(counted) < rule.min_judgments:
        return Decision("too_few_judgments")
    (winner, count), *others = Counter(vote.choice for vote in counted).most_common()
    if others and others[0][1] == count:
        return Decision("no_majority")
    if winner not in (Choice.FIRST, Choice.SECOND):
        return Decision(winner.value)
    return Decision(
        chosen=winner,
        weight=_weight(counted, winner, rule),
        p_chosen=_p_chosen(counted, winner, rule),
        votes=len(counted),
        votes_chosen=count,
    )


def _p_chosen(votes: Sequence[Vote], winner: Choice, rule: Rule) -> float:
    if not rule.soft_labels:
        return 1.0
    tally = Counter(vote.choice for vote in votes)
    wins = tally[winner] + tally[Choice.TIE] / 2
    decided = tally[Choice.FIRST] + tally[Choice.SECOND] + tally[Choice.TIE]
    return round(wins / decided, 6)


def _weight(votes: Sequence[Vote], winner: Choice, rule: Rule) -> float:
    if rule.weights == "equal":
        return 1.0
    strengths = [{None: 1.0, 1: 0.5, 2: 1.0, 3: 1.5}[vote.strength] for vote in votes if vote.choice is winner]
    return round(math.fsum(strengths) / len(strengths), 6)
