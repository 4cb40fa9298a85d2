# Written by `make run-config` from worker/dpo/ground/losses.py: change it there.
"""Which losses there are, which options each one uses with which defaults, and what a loss setting may be.

The formulas are in `loss/formulas.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.services.training.run_config.values import ConfigError, Problem, nearest, number, shown

OPTION_NAMES = ("beta", "label_smoothing", "gamma")
SFT = "sft"
MOST_WEIGHT = 1_000_000


@dataclass(frozen=True, slots=True)
class Loss:
    """Facts of a loss. defaults: the options that it uses; any other is refused, never ignored."""

    defaults: Mapping[str, float] = field(default_factory=dict)
    uses_reference: bool = True
    has_sft_term: bool = False


# A sum may also hold `sft`, which learns nothing from preferences and so never stands alone.
LOSSES: dict[str, Loss] = {
    "sigmoid": Loss({"beta": 0.1, "label_smoothing": 0.0}),
    "sigmoid_norm": Loss({"beta": 5.0}),
    "robust": Loss({"beta": 0.1, "label_smoothing": 0.1}),
    "hinge": Loss({"beta": 0.1}),
    "ipo": Loss({"beta": 0.1}),
    "ipo_sum": Loss({"beta": 0.1}),
    "apo_zero": Loss({"beta": 0.1}),
    "apo_down": Loss({"beta": 0.1}),
    "sppo_hard": Loss({"beta": 0.001}),
    "nca_pair": Loss({"beta": 0.1}),
    "exo_pair": Loss({"beta": 0.1, "label_smoothing": 0.001}),
    "bco_pair": Loss({"beta": 0.1}),
    "bco_pair_shifted": Loss({"beta": 0.1}),
    "simpo": Loss({"beta": 2.0, "gamma": 0.5, "label_smoothing": 0.0}, uses_reference=False),
    "orpo": Loss({"beta": 0.1}, uses_reference=False, has_sft_term=True),
}
TERMS: dict[str, Loss] = LOSSES | {SFT: Loss(uses_reference=False, has_sft_term=True)}


def read_loss(value: Any) -> Any:
    """A loss's name, or a list of terms as it was given; a list may come as JSON text. Raises ConfigError.

    A term is a name or [name, weight].
    """
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigError(_not_a_loss(value)) from None
    if isinstance(value, str):
        if value not in LOSSES and value != SFT:
            raise ConfigError(_unknown(value))
    elif isinstance(value, list | tuple):
        value = [_read_term(term) for term in value]
    else:
        raise ConfigError(_not_a_loss(value))
    terms = components(value)
    names = [name for name, _ in terms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            Problem("loss_type", f"'loss_type' names '{twice}' twice.", "Give it once, with the sum of the weights.")
        )
    if not any(name in LOSSES and weight > 0 for name, weight in terms):
        raise ConfigError(
            Problem(
                "loss_type",
                "'loss_type' must name a loss that learns from preferences, with a weight above 0.",
                f"Add one of {', '.join(LOSSES)}.",
            )
        )
    return value


def components(loss_type: str | list[Any]) -> list[tuple[str, float]]:
    """(loss, weight) in order, of a checked `loss_type`."""
    terms = [loss_type] if isinstance(loss_type, str) else loss_type
    return [(term, 1.0) if isinstance(term, str) else (term[0], float(term[1])) for term in terms]


def option_problems(
    loss_type: str | list[Any], given: Mapping[str, float | None], *, sft_weight: float
) -> list[Problem]:
    """What is wrong with the options `given` (name to value, None: not given) for a checked `loss_type`."""
    names = [name for name, _ in components(loss_type)]
    used = {option for name in names for option in TERMS[name].defaults}
    label = " + ".join(names)
    problems = []
    for option in OPTION_NAMES:
        if given.get(option) is not None and option not in used:
            takers = ", ".join(name for name, loss in LOSSES.items() if option in loss.defaults)
            problems.append(
                Problem(
                    option,
                    f"The loss {label} doesn't use '{option}'.",
                    f"Leave it empty, or choose a loss that uses it: {takers}.",
                )
            )
    if sft_weight and any(TERMS[name].has_sft_term for name in names):
        problems.append(Problem("sft_weight", f"The loss {label} has an SFT term already.", "Leave 'sft_weight' at 0."))
    if "exo_pair" in names and given.get("label_smoothing") == 0:
        problems.append(
            Problem(
                "label_smoothing",
                "The loss exo_pair is infinite where 'label_smoothing' is 0.",
                "Set it above 0 (its paper takes 0.001), or leave it empty.",
            )
        )
    return problems


def _read_term(term: Any) -> Any:
    if isinstance(term, str):
        name, weight = term, 1.0
    elif isinstance(term, list | tuple) and len(term) == 2 and isinstance(term[0], str):
        name, weight = term[0], number(term[1])
    else:
        raise ConfigError(_not_a_loss(term))
    if name not in TERMS:
        raise ConfigError(_unknown(name))
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MOST_WEIGHT:
        what = f"The weight of '{name}' must be a number from 0 to {MOST_WEIGHT:,}, not {shown(term[1])}."
        raise ConfigError(Problem("loss_type", what))
    # As it was given: a training state of the same settings stays usable.
    return term if isinstance(term, str) else [name, weight if isinstance(term[1], str) else term[1]]


def _not_a_loss(value: Any) -> Problem:
    what = f"'loss_type' must be a loss, or a list of losses, each a name or [name, weight], not {shown(value)}."
    return Problem("loss_type", what)


def _unknown(name: str) -> Problem:
    hint = nearest(name, TERMS) or f"'loss_type' must be one of {', '.join(LOSSES)}."
    return Problem("loss_type", f"There is no loss {shown(name)}.", hint)
