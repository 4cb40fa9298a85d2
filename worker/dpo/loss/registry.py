"""The losses' formulas by name, and the loss that a run's settings ask for.

Which options a loss uses, and what a setting may be, is in `ground/losses.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.losses import SFT, TERMS, components
from worker.dpo.loss import formulas


@dataclass(frozen=True, slots=True)
class LossSpec:
    """How a loss is computed. soft_target: the function takes `p_chosen` itself."""

    function: Callable[..., Tensor]
    uses_reward_mean: bool = False
    soft_target: bool = False


LOSS_TYPES: dict[str, LossSpec] = {
    "sigmoid": LossSpec(formulas.sigmoid),
    "sigmoid_norm": LossSpec(formulas.sigmoid_norm),
    "robust": LossSpec(formulas.robust),
    "hinge": LossSpec(formulas.hinge),
    "ipo": LossSpec(formulas.ipo),
    "ipo_sum": LossSpec(formulas.ipo_sum),
    "apo_zero": LossSpec(formulas.apo_zero),
    "apo_down": LossSpec(formulas.apo_down),
    "sppo_hard": LossSpec(formulas.sppo_hard),
    "nca_pair": LossSpec(formulas.nca_pair),
    "exo_pair": LossSpec(formulas.exo_pair, soft_target=True),
    "bco_pair": LossSpec(formulas.bco_pair),
    "bco_pair_shifted": LossSpec(formulas.bco_pair_shifted, uses_reward_mean=True),
    "simpo": LossSpec(formulas.simpo),
    "orpo": LossSpec(formulas.orpo),
    SFT: LossSpec(formulas.sft),
}


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
    def uses_reference(self) -> bool:
        return any(TERMS[name].uses_reference for name, _ in self.components)

    @property
    def uses_reward_mean(self) -> bool:
        return any(LOSS_TYPES[name].uses_reward_mean for name, _ in self.components)

    @property
    def loss_type(self) -> str:
        """The loss's name for people, such as `sigmoid` or `0.8·sigmoid + 0.2·bco_pair`."""
        terms = [*self.components, *([(SFT, self.sft_weight)] if self.sft_weight else [])]
        return terms[0][0] if len(terms) == 1 else " + ".join(f"{weight:g}·{name}" for name, weight in terms)


def configure(config: TrainConfig) -> LossConfig:
    """The loss that the settings ask for. An option that wasn't given is the first loss's own that uses it."""
    terms = components(config.loss_type)
    options: dict[str, float] = {"beta": 0.1, "label_smoothing": 0.0, "gamma": 0.0}
    for name, _ in reversed(terms):
        options |= TERMS[name].defaults
    given = {name: getattr(config, name) for name in options}
    options |= {name: value for name, value in given.items() if value is not None}
    return LossConfig(tuple(terms), sft_weight=config.sft_weight, **options)
