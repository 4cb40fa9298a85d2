"""Which losses there are, which options each one uses with which defaults, and the loss that a configuration asks for.

An option that a loss does not use is refused, never ignored. The formulas are in `formulas.py`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worker.dpo.ground.errors import BadSetting
from worker.dpo.loss import formulas


class LossOptionError(BadSetting):
    """A loss or option that doesn't exist, that the loss doesn't use, or that is out of its range."""


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


LOSS_TYPES: dict[str, LossSpec] = {
    "sigmoid": LossSpec(formulas.sigmoid, {"beta": 0.1, "label_smoothing": 0.0}),
    "sigmoid_norm": LossSpec(formulas.sigmoid_norm, {"beta": 5.0}),
    "robust": LossSpec(formulas.robust, {"beta": 0.1, "label_smoothing": 0.1}),
    "hinge": LossSpec(formulas.hinge, {"beta": 0.1}),
    "ipo": LossSpec(formulas.ipo, {"beta": 0.1}),
    "ipo_sum": LossSpec(formulas.ipo_sum, {"beta": 0.1}),
    "apo_zero": LossSpec(formulas.apo_zero, {"beta": 0.1}),
    "apo_down": LossSpec(formulas.apo_down, {"beta": 0.1}),
    "sppo_hard": LossSpec(formulas.sppo_hard, {"beta": 0.001}),
    "nca_pair": LossSpec(formulas.nca_pair, {"beta": 0.1}),
    "exo_pair": LossSpec(formulas.exo_pair, {"beta": 0.1, "label_smoothing": 0.001}, soft_target=True),
    "bco_pair": LossSpec(formulas.bco_pair, {"beta": 0.1}),
    "bco_pair_shifted": LossSpec(formulas.bco_pair_shifted, {"beta": 0.1}, uses_reward_mean=True),
    "simpo": LossSpec(formulas.simpo, {"beta": 2.0, "gamma": 0.5, "label_smoothing": 0.0}, uses_reference=False),
    "orpo": LossSpec(formulas.orpo, {"beta": 0.1}, uses_reference=False, has_sft_term=True),
    "sft": LossSpec(formulas.sft, {}, uses_reference=False, alone=False, has_sft_term=True),
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
