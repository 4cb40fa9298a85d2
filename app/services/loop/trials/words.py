"""A trial in words, the same on its page, in the API and on a terminal. Pure."""

from typing import Any

from app.models import Arm, ArmTrial, TrialState
from app.services.loop.generating.arms import WORDS


def sentences(row: ArmTrial) -> list[str]:
    """What a trial that is finished came to: two for each arm."""
    if row.state is not TrialState.FINISHED or row.result is None:
        return []
    told = []
    for name, one in row.result["arms"].items():
        told += [bought(Arm(name), one), advice(Arm(name), one)]
    return told


def bought(arm: Arm, one: dict[str, Any]) -> str:
    """The figure with its interval."""
    value, low, high = (one["accuracy"][name] for name in ("value", "low", "high"))
    return (
        f"{one['per']} judgments of the arm “{WORDS[arm]}” bought {_signed(value)} points of accuracy against as many random ones "
        f"({_signed(low)} to {_signed(high)})."
    )


def advice(arm: Arm, one: dict[str, Any]) -> str:
    """Whether a share may move. It never moves by itself."""
    if not one["differs"]:
        return "That may be chance: nothing speaks for another share."
    if one["accuracy"]["value"] > 0:
        return f"That isn't chance: a larger share of “{WORDS[arm]}” may pay in the next answers that you ask for."
    return f"That isn't chance: give “{WORDS[arm]}” a smaller share in the next answers that you ask for, or none."


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−").replace("+0.0", "0.0")
