"""Preference losses: what one pair costs, given its log-probabilities.

Every loss here sees a pair as two completions, the chosen `w` and the rejected `l`, each with the sum of its tokens'
log-probabilities under the policy and under the reference (nats) and its length (tokens). `LOSS_TYPES` says for each
loss which options it uses and their defaults; an option that a loss does not use is refused, never ignored.

Soft labels. Where evaluators disagreed, `p_chosen` is the share of them who chose `w`, and the loss is its expectation
over who is asked: p·L(w, l) + (1 - p)·L(l, w). For `sigmoid` that is -p·log σ(Δ) - (1 - p)·log σ(-Δ). `exo_pair` has a
preference distribution of its own, and p goes in there.

Symbols: r = log π(y|x) - log π_ref(y|x), the log-ratio; Δ = β·(r_w - r_l); |y| the completion's length; σ the sigmoid.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LossOptionError(ValueError):
    """A loss or option that doesn't exist, that the loss doesn't use, or that is out of its range."""


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


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What a loss is: its function, the options that it uses with their defaults, and what else it needs.

    soft_target: the function takes `p_chosen` itself. alone: may stand without another loss beside it.
    """

    function: Callable[..., Tensor]
    defaults: Mapping[str, float]
    uses_reference: bool = True
    uses_reward_mean: bool = False
    soft_target: bool = False
    alone: bool = True
    has_sft_term: bool = False

    @property
    def options(self) -> frozenset[str]:
        return frozenset(self.defaults)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring: name, formula and source."""
        return (self.function.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


LOSS_TYPES: dict[str, LossSpec] = {
    "sigmoid": LossSpec(sigmoid, {"beta": 0.1, "label_smoothing": 0.0}),
    "sigmoid_norm": LossSpec(sigmoid_norm, {"beta": 5.0}),
    "robust": LossSpec(robust, {"beta": 0.1, "label_smoothing": 0.1}),
    "hinge": LossSpec(hinge, {"beta": 0.1}),
    "ipo": LossSpec(ipo, {"beta": 0.1}),
    "ipo_sum": LossSpec(ipo_sum, {"beta": 0.1}),
    "apo_zero": LossSpec(apo_zero, {"beta": 0.1}),
    "apo_down": LossSpec(apo_down, {"beta": 0.1}),
    "sppo_hard": LossSpec(sppo_hard, {"beta": 0.001}),
    "nca_pair": LossSpec(nca_pair, {"beta": 0.1}),
    "exo_pair": LossSpec(exo_pair, {"beta": 0.1, "label_smoothing": 0.001}, soft_target=True),
    "bco_pair": LossSpec(bco_pair, {"beta": 0.1}),
    "bco_pair_shifted": LossSpec(bco_pair_shifted, {"beta": 0.1}, uses_reward_mean=True),
    "simpo": LossSpec(simpo, {"beta": 2.0, "gamma": 0.5, "label_smoothing": 0.0}, uses_reference=False),
    "orpo": LossSpec(orpo, {"beta": 0.1}, uses_reference=False, has_sft_term=True),
    "sft": LossSpec(sft, {}, uses_reference=False, alone=False, has_sft_term=True),
}

OPTION_NAMES = ("beta", "label_smoothing", "gamma")


@dataclass(frozen=True, slots=True)
class LossConfig:
    """A loss, or a weighted sum of some, with every option settled. Make it with `configure`.

    components: (loss type, weight) in order. sft_weight: weight of an added `sft` term. beta scales the rewards that
    are reported as well.
    """

    components: tuple[tuple[str, float], ...] = (("sigmoid", 1.0),)
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.0
    sft_weight: float = 0.0

    @property
    def specs(self) -> list[LossSpec]:
        return [LOSS_TYPES[name] for name, _ in self.components]

    @property
    def uses_reference(self) -> bool:
        return any(spec.uses_reference for spec in self.specs)

    @property
    def uses_reward_mean(self) -> bool:
        return any(spec.uses_reward_mean for spec in self.specs)

    @property
    def loss_type(self) -> str:
        """The loss's name for people, such as `sigmoid` or `0.8·sigmoid + 0.2·bco_pair`."""
        terms = [*self.components, *([("sft", self.sft_weight)] if self.sft_weight else [])]
        return terms[0][0] if len(terms) == 1 else " + ".join(f"{weight:g}·{name}" for name, weight in terms)


LossType = str | Sequence[str | tuple[str, float] | list]


def configure(
    loss_type: LossType = "sigmoid", *, loss_weights: Sequence[float] | None = None, **given: Any
) -> LossConfig:
    """The loss that a configuration asks for, with defaults where an option is absent or None.

    loss_type: a name, or several, each a name or a (name, weight) pair; `loss_weights` gives the weights apart, as TRL
    has it. given: `beta`, `label_smoothing`, `gamma`, `sft_weight`. Raises LossOptionError.
    """
    components = _components(loss_type, loss_weights)
    sft_weight = given.pop("sft_weight", None) or 0.0
    given = {name: value for name, value in given.items() if value is not None}
    check_options([name for name, _ in components], given | ({"sft_weight": sft_weight} if sft_weight else {}))
    defaults: dict[str, float] = {"beta": 0.1, "label_smoothing": 0.0, "gamma": 0.0}
    for name, _ in reversed(components):
        defaults |= LOSS_TYPES[name].defaults
    config = LossConfig(tuple(components), sft_weight=float(sft_weight), **(defaults | given))
    _check_ranges(config)
    return config


def check_options(loss_type: str | Sequence[str], given_options: Mapping[str, Any]) -> None:
    """Raise LossOptionError where an option was given that none of the losses uses, or a loss doesn't exist.

    given_options: name to value; a value of None is an option that was not given.
    """
    names = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    specs = [_spec(name) for name in names]
    label = " + ".join(names)
    if all(not spec.alone for spec in specs):
        raise LossOptionError(f"Loss '{label}' has no preference in it: add it to another loss with sft_weight.")
    used = frozenset().union(*(spec.options for spec in specs))
    for option, value in given_options.items():
        if value is None:
            continue
        if option == "sft_weight":
            if value and any(spec.has_sft_term for spec in specs):
                raise LossOptionError(f"Loss '{label}' has an SFT term already, so sft_weight can't be set with it.")
        elif option not in OPTION_NAMES:
            raise LossOptionError(f"There is no loss option '{option}': {', '.join(OPTION_NAMES)}, sft_weight.")
        elif option not in used:
            takers = ", ".join(name for name, spec in LOSS_TYPES.items() if option in spec.options)
            raise LossOptionError(
                f"Loss '{label}' does not use {option}: leave it out, or choose a loss that uses it ({takers})."
            )


def _spec(name: str) -> LossSpec:
    if name not in LOSS_TYPES:
        near = difflib.get_close_matches(str(name), LOSS_TYPES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise LossOptionError(f"There is no loss '{name}'.{hint} Losses: {', '.join(LOSS_TYPES)}.")
    return LOSS_TYPES[name]


def _components(loss_type: LossType, loss_weights: Sequence[float] | None) -> list[tuple[str, float]]:
    items: list[Any] = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    if not items:
        raise LossOptionError("loss_type is an empty list: name at least one loss.")
    if loss_weights is not None:
        if len(loss_weights) != len(items) or not all(isinstance(item, str) for item in items):
            raise LossOptionError(f"loss_weights has {len(loss_weights)} numbers for {len(items)} loss names.")
        items = list(zip(items, loss_weights, strict=True))
    pairs = [(item, 1.0) if isinstance(item, str) else tuple(item) for item in items]
    components = []
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[1], int | float) or pair[1] < 0:
            raise LossOptionError(f"{pair!r} in loss_type is neither a name nor a name with a weight of 0 or more.")
        components.append((pair[0], float(pair[1])))
    if len({name for name, _ in components}) < len(components):
        raise LossOptionError("loss_type names a loss twice: give it once, with the sum of the weights.")
    return components


def _check_ranges(config: LossConfig) -> None:
    names = {name for name, _ in config.components}
    if not config.beta > 0:
        raise LossOptionError(f"beta is {config.beta}: it must be above 0.")
    if not 0 <= config.label_smoothing < 0.5:
        raise LossOptionError(
            f"label_smoothing is {config.label_smoothing}: the share of wrong labels, 0 up to but not including 0.5."
        )
    if "exo_pair" in names and config.label_smoothing == 0:
        raise LossOptionError("exo_pair needs label_smoothing above 0 (its paper: 0.001): at 0 the loss is infinite.")
    if config.gamma < 0 or config.sft_weight < 0:
        raise LossOptionError("gamma and sft_weight can't be negative.")


@dataclass
class RewardMean:
    """Running mean of all rewards seen, the δ of `bco_pair_shifted`: state that a resumed run needs."""

    mean: float = 0.0
    count: int = 0

    def update(self, rewards: Tensor) -> None:
        """Take in a step's rewards, chosen and rejected together, of all processes; any shape."""
        if rewards.numel() == 0:
            return
        self.count += rewards.numel()
        self.mean += (float(rewards.double().sum()) - rewards.numel() * self.mean) / self.count

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.mean, self.count = float(state["mean"]), int(state["count"])


@dataclass(frozen=True, slots=True)
class PairLosses:
    """Per pair, shape (pairs,): the loss times the pair's weight, and the detached implicit rewards in nats."""

    loss: Tensor
    rewards_chosen: Tensor
    rewards_rejected: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)


def pair_losses(
    loss: LossConfig,
    *,
    logps_chosen: Tensor,
    logps_rejected: Tensor,
    ref_logps_chosen: Tensor | None,
    ref_logps_rejected: Tensor | None,
    len_chosen: Tensor,
    len_rejected: Tensor,
    p_chosen: Tensor | None = None,
    weight: Tensor | None = None,
    reward_mean: float = 0.0,
) -> PairLosses:
    """The loss of each pair and the rewards of its answers.

    All tensors are (pairs,); log-probabilities are sums over completion tokens in nats; p_chosen and weight default to
    1. The reference's may be None where `loss.uses_reference` is false. The rewards are β·r, or β·log π(y)/|y| for
    losses without a reference. `components` holds each term's mean per pair, unweighted, when there are several.
    """
    win = Completion(logps_chosen, ref_logps_chosen, len_chosen)
    lose = Completion(logps_rejected, ref_logps_rejected, len_rejected)
    p = torch.ones_like(logps_chosen) if p_chosen is None else p_chosen.to(logps_chosen.dtype)
    options = Options(loss.beta, loss.label_smoothing, loss.gamma, reward_mean)
    terms = [*loss.components, *([("sft", loss.sft_weight)] if loss.sft_weight else [])]
    values = {name: _expected(LOSS_TYPES[name], win, lose, options, p) for name, _ in terms}
    total = sum((weight_ * values[name] for name, weight_ in terms), start=torch.zeros_like(logps_chosen))
    rewards = [loss.beta * (c.log_ratio if loss.uses_reference else c.mean_logp).detach() for c in (win, lose)]
    return PairLosses(
        loss=total if weight is None else total * weight.to(total.dtype),
        rewards_chosen=rewards[0],
        rewards_rejected=rewards[1],
        components={name: value.detach() for name, value in values.items()} if len(terms) > 1 else {},
    )


def _expected(spec: LossSpec, win: Completion, lose: Completion, options: Options, p: Tensor) -> Tensor:
    """The loss averaged over which of the two answers an evaluator prefers: `win` with probability p."""
    if spec.soft_target:
        return spec.function(win, lose, options, p)
    if bool((p == 1).all()):
        return spec.function(win, lose, options)
    return p * spec.function(win, lose, options) + (1 - p) * spec.function(lose, win, options)
