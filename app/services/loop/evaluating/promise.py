"""What a plan can decide, said before it starts: computed by simulation, a second at most, and kept. Call it outside of transactions."""

from dataclasses import dataclass
from functools import lru_cache

from app.stats.loop import forecast
from app.stats.loop.decision import Goal, Plan

SMALLER = (0.52, 0.55, 0.6, 0.65, 0.7, 0.8)  # true win rates that people think of
ROUNDED_TO = 5


@dataclass(frozen=True, slots=True)
class Promise:
    """`decides`: the true win rate from which on 80 % of evaluations with `prompts` prompts reach their goal, None where none
    does. `smaller`: the next smaller one that people think of, which takes about `needed` prompts."""

    prompts: int
    decides: float | None
    smaller: float | None
    needed: int | None

    @property
    def sentence(self) -> str:
        """As the page says it before anything starts."""
        if self.decides is None:
            told = f"With {self.prompts:,} prompts no win rate is decided in 80 % of cases"
        else:
            told = f"With {self.prompts:,} prompts a true win rate of {self.decides * 100:.0f} % or more is decided in 80 % of cases"
        if self.smaller is not None and self.needed is not None:
            told += f"; for {self.smaller * 100:.0f} % it takes about {self.needed:,} prompts"
        return told + "."


def promise(plan: Plan) -> Promise:
    """What the plan's maximum can decide. Maxima are rounded to two digits first, so that few are ever computed."""
    return _promise(plan.goal, _rounded(plan.maximum), plan.margin, plan.confidence)


@lru_cache(maxsize=256)
def _promise(goal: Goal, maximum: int, margin: float, confidence: float) -> Promise:
    plan = Plan(goal, maximum, margin, confidence)
    decides = forecast.decidable(plan)
    smaller = next(
        (rate for rate in reversed(SMALLER) if rate > plan.bar and (decides is None or rate < decides)), None
    )
    needed = _needed(goal, margin, confidence, smaller) if smaller is not None else None
    return Promise(maximum, decides, smaller if needed is not None else None, needed)


@lru_cache(maxsize=64)
def _needed(goal: Goal, margin: float, confidence: float, rate: float) -> int | None:
    needed = forecast.prompts_needed(Plan(goal, 1, margin, confidence), rate)
    return None if needed is None else _rounded(needed)


def _rounded(number: int) -> int:
    """To two digits, or to fives below a hundred: what is simulated isn't known better."""
    if number < 100:
        return max(1, number if number < 20 else round(number / ROUNDED_TO) * ROUNDED_TO)
    unit = 10 ** (len(str(number)) - 2)
    return round(number / unit) * unit
