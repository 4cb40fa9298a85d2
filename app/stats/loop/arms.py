"""What the judgments of one arm bought: runs with its pairs against runs of equal size without them, on the same eval prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.stats.loop.estimate import Estimate

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
    prompt. judgments: of the arm, in the run with it. arms: how many are compared (Bonferroni).

    Seeds and prompts are both samples: another seed would have trained other models, other prompts would have asked them other
    things. So d = μ + seed + prompt + rest, a crossed random-effects model without replicates, and

    Var(mean) = (MS + max(MS_prompt − MS_rest, 0)) / (seeds · prompts),  MS = max(MS_seed, MS_rest)

    with Hillis' degrees of freedom (2007), (seeds − 1) · (1 + max(MS_prompt − MS_rest, 0) / MS)², as readers and cases are compared
    in radiology. He has MS_seed for MS. Three seeds that happen to agree would make its interval too narrow, and seeds can't vary
    by less than the rest makes them, so ours is rather too wide. Raises ValueError for fewer than three seeds, or two prompts.
    """
    import numpy as np
    from scipy.stats import t

    d = np.asarray(differences, dtype=float)
    if d.ndim != 2 or d.shape[0] < FEWEST_SEEDS or d.shape[1] < 2:
        raise ValueError(f"an arm is compared over at least {FEWEST_SEEDS} seeds and two prompts, not {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError("differences must be finite numbers")
    if judgments < 1 or arms < 1:
        raise ValueError("an arm needs at least one judgment")
    seeds, prompts = d.shape
    mean, by_seed, by_prompt = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_seed = prompts * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    ms_prompt = seeds * ((by_prompt - mean) ** 2).sum() / (prompts - 1)
    rest = d - by_seed[:, None] - by_prompt[None, :] + mean
    ms_rest = (rest**2).sum() / ((seeds - 1) * (prompts - 1))
    ms = max(ms_seed, ms_rest)
    total = ms + max(ms_prompt - ms_rest, 0.0)
    freedom = (seeds - 1) * (total / ms) ** 2 if ms > 0 else (seeds - 1) * (prompts - 1)
    level = 1 - (1 - confidence) / arms
    reach = float(t.ppf((1 + level) / 2, freedom)) * float(np.sqrt(total / (seeds * prompts)))
    scale = 100 / judgments
    value = float(mean) * scale
    return Worth(Estimate(value, value - reach * scale, value + reach * scale, prompts), seeds, prompts)
