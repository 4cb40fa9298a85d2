"""What the judgments of one arm bought: runs with its pairs against runs of equal size without them, on the same eval prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.stats.loop.estimate import Estimate
from app.stats.loop.paired import paired_by_prompt

FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Worth:
    """`per_hundred`: what 100 of the arm's judgments add to the eval figure, beyond what as many others would have added; the interval
    holds for all compared arms together. `differs`: it lies on one side of 0, so a share may move."""

    per_hundred: Estimate
    seeds: int
    prompts: int

    @property
    def differs(self) -> bool:
        return self.per_hundred.excludes(0.0)


def worth(differences: Sequence[Sequence[float]], *, judgments: int, arms: int = 1, confidence: float = 0.95) -> Worth:
    """This arm's 100 judgments bought x ± y.

    differences: (seeds, prompts), the eval figure of the run with the arm less that of the run without it, same seed, same
    prompt; `paired` has the interval. judgments: of the arm, in the run with it. arms: how many are compared (Bonferroni). Raises
    ValueError for fewer than three seeds, or two prompts.
    """
    if len(differences) < FEWEST_SEEDS or len(differences[0]) < 2:
        raise ValueError(f"an arm is compared over at least {FEWEST_SEEDS} seeds and two prompts")
    if judgments < 1 or arms < 1:
        raise ValueError("an arm needs at least one judgment")
    told = paired_by_prompt(differences, confidence=1 - (1 - confidence) / arms)
    scale = 100 / judgments
    of = told.difference
    per_hundred = Estimate((of.value or 0.0) * scale, of.low * scale, of.high * scale, of.count)
    return Worth(per_hundred, told.seeds, told.prompts)
