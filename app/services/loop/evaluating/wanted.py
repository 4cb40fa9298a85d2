"""What is wanted of an evaluation: everything that is fixed, and hashed, before anybody judges."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from app.errors import Invalid
from app.models import Evaluation, Split
from app.services.loop.generating.wanted import Sampling
from app.stats.loop.decision import Goal, Plan

MOST_PROMPTS = 5_000
MOST_VOTES = 5
CONFIDENCE = 0.95


class BothBad(StrEnum):
    """How "both bad" counts: as a tie, or as no vote, which leaves a prompt out that has no other."""

    TIE = "tie"
    LEAVE_OUT = "leave_out"


class Skips(StrEnum):
    """What a skip does: somebody else is asked, or the prompt is left out."""

    ASK_OTHERS = "ask_others"
    LEAVE_OUT = "leave_out"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan before its prompts are drawn. `prompts`: the split that they come from, `eval` or `kept`."""

    goal: Goal = Goal.SUPERIORITY
    margin: float = 0.05
    maximum: int = 400
    votes: int = 1
    both_bad: BothBad = BothBad.TIE
    skips: Skips = Skips.ASK_OTHERS
    share: int = 30
    prompts: Split = Split.EVAL
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def checked(self) -> "Wanted":
        """Itself. Raises Invalid for a plan that can't be carried out."""
        for name, value, least, most in (
            ("maximum", self.maximum, 1, MOST_PROMPTS),
            ("votes", self.votes, 1, MOST_VOTES),
            ("share", self.share, 1, 100),
            ("margin", self.margin, 0.005, 0.3),
        ):
            if not least <= value <= most:
                raise Invalid(f"“{name}” is {value}.", f"Choose {least} to {most:,}.", field=name)
        if not isinstance(self.sampling, Mapping):
            raise Invalid("“sampling” isn't a list of settings.", "Name each with its value.", field="sampling")
        Sampling.of(self.sampling)
        if self.prompts not in (Split.EVAL, Split.KEPT):
            raise Invalid(
                f"Prompts of the split “{self.prompts}” are trained on.", "Choose eval or kept.", field="prompts"
            )
        return self

    def plan(self, prompts: int | None = None) -> Plan:
        """As the statistics know it, for as many prompts as there are."""
        maximum = self.maximum if prompts is None else max(1, min(self.maximum, prompts))
        return Plan(self.goal, maximum, self.margin, CONFIDENCE)


def fingerprint(evaluation: Evaluation, *, prompts: Sequence[str], identities: Mapping[str, Any]) -> str:
    """SHA-256 of an evaluation's plan as canonical JSON: who wants to know whether it was changed computes it again.

    prompts: their content hashes in the drawn order. identities: what says which weights both sides are.
    """
    plan = {
        "form": 1,
        "checkpoint": evaluation.checkpoint_id,
        "opponent": evaluation.opponent_id,
        "opponent_model": evaluation.opponent_model,
        "goal": evaluation.goal,
        "margin": evaluation.margin,
        "maximum": evaluation.maximum,
        "confidence": evaluation.confidence,
        "votes": evaluation.votes,
        "both_bad": evaluation.both_bad,
        "skips": evaluation.skips,
        "sampling": evaluation.sampling,
        "share": evaluation.share,
        "seed": evaluation.seed,
        "prompts": list(prompts),
        **identities,
    }
    return hashlib.sha256(orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)).hexdigest()
