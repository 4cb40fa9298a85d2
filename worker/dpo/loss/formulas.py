"""The losses' formulas, each as its paper has it.

A function sees all pairs at once: the chosen completions `win`, the rejected `lose`, and the options; it returns the
loss of each pair, shape (pairs,). Symbols: w the chosen answer, l the rejected; r = log π(y|x) - log π_ref(y|x), the
log-ratio; Δ = β·(r_w - r_l); |y| the completion's length in tokens; σ the sigmoid. `ground/losses.py` says which
options each one uses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """One side of every pair: tensors of shape (pairs,). `ref_logp` is None for losses without a reference."""

    logp: Tensor
    ref_logp: Tensor | None
    length: Tensor

    @property
    def log_ratio(self) -> Tensor:
        if self.ref_logp is None:
            raise ValueError("This loss needs the reference model's log-probabilities, and none were given.")
        return self.logp - self.ref_logp

    @property
    def mean_log_ratio(self) -> Tensor:
        return self.log_ratio / self.length.clamp(min=1)

    @property
    def mean_logp(self) -> Tensor:
        return self.logp / self.length.clamp(min=1)


@dataclass(frozen=True, slots=True)
class Options:
    """The numbers that a loss function may read. `reward_mean` is `bco_pair_shifted`'s δ."""

    beta: float
    label_smoothing: float
    gamma: float
    reward_mean: float = 0.0


def sigmoid(win: Completion, lose: Completion, o: Options) -> Tensor:
    """DPO: -log σ(Δ), Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7.

    With label_smoothing ε it is conservative DPO: -(1 - ε)·log σ(Δ) - ε·log σ(-Δ), Mitchell 2023, "A note on DPO with
    noisy preferences & relationship to IPO": ε is the probability that a label is wrong.
    """
    return _smoothed(o.beta * (win.log_ratio - lose.log_ratio), o.label_smoothing)


def sigmoid_norm(win: Completion, lose: Completion, o: Options) -> Tensor:
    """Length-normalised DPO: -log σ(β·(r_w/|y_w| - r_l/|y_l|)), Lambert et al. 2024 (Tülu 3, arXiv 2411.15124)."""
    return -F.logsigmoid(o.beta * (win.mean_log_ratio - lose.mean_log_ratio))


def robust(win: Completion, lose: Completion, o: Options) -> Tensor:
    """Robust DPO: [-(1 - ε)·log σ(Δ) + ε·log σ(-Δ)] / (1 - 2ε), Chowdhury et al. 2024 (arXiv 2403.00409).

    Unbiased for the clean loss where each label was flipped with probability ε < 1/2. Can be negative.
    """
    delta, eps = o.beta * (win.log_ratio - lose.log_ratio), o.label_smoothing
    return (-(1 - eps) * F.logsigmoid(delta) + eps * F.logsigmoid(-delta)) / (1 - 2 * eps)


def hinge(win: Completion, lose: Completion, o: Options) -> Tensor:
    """max(0, 1 - Δ): SLiC's hinge (Zhao et al. 2023, arXiv 2305.10425) on DPO's log-ratios (RSO, arXiv 2309.06657)."""
    return torch.relu(1 - o.beta * (win.log_ratio - lose.log_ratio))


def ipo(win: Completion, lose: Completion, o: Options) -> Tensor:
    """IPO on per-token means: (r_w/|y_w| - r_l/|y_l| - 1/(2β))², the variant that TRL has; β is the paper's τ.

    Azar et al. 2023 (arXiv 2310.12036), Eq. 17. The paper writes sums (`ipo_sum`); its authors told TRL that their
    results used means.
    """
    return (win.mean_log_ratio - lose.mean_log_ratio - 1 / (2 * o.beta)) ** 2


def ipo_sum(win: Completion, lose: Completion, o: Options) -> Tensor:
    """IPO as printed: (r_w - r_l - 1/(2β))², Azar et al. 2023 (arXiv 2310.12036), Eq. 17; β is the paper's τ."""
    return (win.log_ratio - lose.log_ratio - 1 / (2 * o.beta)) ** 2


def apo_zero(win: Completion, lose: Completion, o: Options) -> Tensor:
    """APO-zero: (1 - σ(β·r_w)) + σ(β·r_l), D'Oosterlinck et al. 2024 (arXiv 2408.06266), Eq. 7.

    For data whose chosen answers are better than the model's own: they become likelier, the rejected less likely.
    """
    return (1 - torch.sigmoid(o.beta * win.log_ratio)) + torch.sigmoid(o.beta * lose.log_ratio)


def apo_down(win: Completion, lose: Completion, o: Options) -> Tensor:
    """APO-down: σ(β·r_w) + (1 - σ(Δ)), D'Oosterlinck et al. 2024 (arXiv 2408.06266), Eq. 8.

    For data whose chosen answers are worse than the model's own: both become less likely, the rejected more so.
    """
    return torch.sigmoid(o.beta * win.log_ratio) + (1 - torch.sigmoid(o.beta * (win.log_ratio - lose.log_ratio)))


def sppo_hard(win: Completion, lose: Completion, o: Options) -> Tensor:
    """SPPO with hard labels: (r_w - 1/(2β))² + (r_l + 1/(2β))², Wu et al. 2024 (arXiv 2405.00675), Eq. 4.7, η = 1/β."""
    return (win.log_ratio - 0.5 / o.beta) ** 2 + (lose.log_ratio + 0.5 / o.beta) ** 2


def nca_pair(win: Completion, lose: Completion, o: Options) -> Tensor:
    """NCA on pairs: -log σ(β·r_w) - ½·log σ(-β·r_w) - ½·log σ(-β·r_l), Chen et al. 2024 (arXiv 2402.05369)."""
    reward_w, reward_l = o.beta * win.log_ratio, o.beta * lose.log_ratio
    return -F.logsigmoid(reward_w) - 0.5 * F.logsigmoid(-reward_w) - 0.5 * F.logsigmoid(-reward_l)


def exo_pair(win: Completion, lose: Completion, o: Options, p_chosen: Tensor) -> Tensor:
    """EXO on pairs: KL(q ‖ p), q = (σ(Δ), σ(-Δ)), p = (1 - ε, ε), Ji et al. 2024 (arXiv 2402.00856), Eq. 16.

    With soft labels p is (s, 1 - s) where s = p_chosen·(1 - ε) + (1 - p_chosen)·ε.
    """
    delta, eps = o.beta * (win.log_ratio - lose.log_ratio), o.label_smoothing
    human = p_chosen * (1 - eps) + (1 - p_chosen) * eps
    log_q_w, log_q_l = F.logsigmoid(delta), F.logsigmoid(-delta)
    # 1 - human loses ε to rounding in float32 where ε is small; this doesn't.
    other = p_chosen * eps + (1 - p_chosen) * (1 - eps)
    return log_q_w.exp() * (log_q_w - human.log()) + log_q_l.exp() * (log_q_l - other.log())


def bco_pair(win: Completion, lose: Completion, o: Options) -> Tensor:
    """BCO on pairs without its reward shift, as in TRL: -log σ(β·r_w) - log σ(-β·r_l), Jung et al. 2024 (arXiv
    2404.04656)."""
    return -F.logsigmoid(o.beta * win.log_ratio) - F.logsigmoid(-o.beta * lose.log_ratio)


def bco_pair_shifted(win: Completion, lose: Completion, o: Options) -> Tensor:
    """BCO on pairs as in its paper: -log σ(β·r_w - δ) - log σ(-(β·r_l - δ)), Jung et al. 2024 (arXiv 2404.04656).

    δ is the running mean of all rewards so far (`RewardMean`), chosen and rejected alike; 0 before the first step,
    where policy and reference are equal.
    """
    return -F.logsigmoid(o.beta * win.log_ratio - o.reward_mean) - F.logsigmoid(o.reward_mean - o.beta * lose.log_ratio)


def simpo(win: Completion, lose: Completion, o: Options) -> Tensor:
    """SimPO: -log σ(β·(log π(y_w)/|y_w| - log π(y_l)/|y_l|) - γ), Meng et al. 2024 (arXiv 2405.14734), Eq. 6.

    No reference model. label_smoothing as in `sigmoid`.
    """
    return _smoothed(o.beta * (win.mean_logp - lose.mean_logp) - o.gamma, o.label_smoothing)


def orpo(win: Completion, lose: Completion, o: Options) -> Tensor:
    """ORPO: -log π(y_w)/|y_w| - β·log σ(log odds(y_w) - log odds(y_l)), Hong et al. 2024 (arXiv 2403.07691), Eqs. 6-7.

    odds(y) = P/(1 - P) with P = exp(log π(y)/|y|); β is the paper's λ. No reference model. The first term covers the
    completion only (TRL's covers the prompt as well).
    """
    return sft(win, lose, o) - o.beta * F.logsigmoid(_log_odds(win.mean_logp) - _log_odds(lose.mean_logp))


def sft(win: Completion, lose: Completion, o: Options) -> Tensor:
    """Negative log-likelihood of the chosen answer per token: -log π(y_w)/|y_w|, Pang et al. 2024 (arXiv 2404.19733),
    Eq. 1. Each pair counts the same; TRL's mean over a micro-batch's tokens depends on what shares the micro-batch."""
    return -win.mean_logp


def _smoothed(delta: Tensor, eps: float) -> Tensor:
    return -(1 - eps) * F.logsigmoid(delta) - eps * F.logsigmoid(-delta)


def _log_odds(mean_logp: Tensor) -> Tensor:
    """log(P/(1 - P)) for P = exp(mean_logp), finite where the model is certain of every token."""
    mean_logp = mean_logp.clamp(max=-1e-6)
    return mean_logp - torch.log(-torch.expm1(mean_logp))
