"""One model's figure less another's on the same eval prompts, with an interval that knows what was drawn: prompts, and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.stats.loop.estimate import Estimate


@dataclass(frozen=True)
class Paired:
    """`difference`: the mean over seeds and prompts. With one seed it is about these two models only; another seed would have trained
    others."""

    difference: Estimate
    seeds: int
    prompts: int


def paired_by_prompt(differences: Sequence[Sequence[float]], *, confidence: float = 0.95) -> Paired:
    """differences: (seeds, prompts), the figure of one model less that of the other, same seed, same prompt.

    Seeds and prompts are both samples: another seed would have trained other models, other prompts would have asked them other
    things. So d = μ + seed + prompt + rest, a crossed random-effects model without replicates, and

    Var(mean) = (MS + max(MS_prompt − MS_rest, 0)) / (seeds · prompts),  MS = max(MS_seed, MS_rest)

    with Hillis' degrees of freedom (2007), (seeds − 1) · (1 + max(MS_prompt − MS_rest, 0) / MS)², as readers and cases are compared
    in radiology. He has MS_seed for MS. Seeds that happen to agree would make its interval too narrow, and seeds can't vary
    by less than the rest makes them, so ours is rather too wide. One seed: Student's interval over prompts. Raises ValueError without
    a seed, for fewer than two prompts, and for what is no finite number.
    """
    import numpy as np
    from scipy.stats import t

    d = np.asarray(differences, dtype=float)
    if d.ndim != 2 or d.shape[0] < 1 or d.shape[1] < 2:
        raise ValueError(f"models are compared over at least one seed and two prompts, not {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError("differences must be finite numbers")
    seeds, prompts = d.shape
    mean, by_seed, by_prompt = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_prompt = seeds * ((by_prompt - mean) ** 2).sum() / (prompts - 1)
    if seeds == 1:
        total, freedom = ms_prompt, float(prompts - 1)
    else:
        ms_seed = prompts * ((by_seed - mean) ** 2).sum() / (seeds - 1)
        rest = d - by_seed[:, None] - by_prompt[None, :] + mean
        ms_rest = (rest**2).sum() / ((seeds - 1) * (prompts - 1))
        ms = max(ms_seed, ms_rest)
        total = ms + max(ms_prompt - ms_rest, 0.0)
        freedom = (seeds - 1) * (total / ms) ** 2 if ms > 0 else (seeds - 1) * (prompts - 1)
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * float(np.sqrt(total / (seeds * prompts)))
    value = float(mean)
    return Paired(Estimate(value, value - reach, value + reach, prompts), seeds, prompts)
