"""What an evaluation came to, and whether it may stop asking, by a plan that was fixed before the first judgment."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.stats.loop import sequential
from app.stats.loop.estimate import Estimate, Outcomes, mean, size, tally


class Goal(StrEnum):
    """What the evaluation is to show: a win rate above one half, or at most the margin below it."""

    SUPERIORITY = "superiority"
    NON_INFERIORITY = "non_inferiority"


class Word(StrEnum):
    BETTER = "better"
    NOT_WORSE = "not_worse"
    WORSE = "worse"
    UNDECIDED = "undecided"


class Stop(StrEnum):
    GOAL = "goal"
    WORSE = "worse"
    MAXIMUM = "maximum"


@dataclass(frozen=True)
class Plan:
    """goal, margin (a difference of win rates), maximum (prompts), confidence of the sequence: fixed before the first judgment.

    Raises ValueError for a plan that can't be carried out.
    """

    goal: Goal
    maximum: int
    margin: float = 0.05
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.maximum < 1:
            raise ValueError(f"an evaluation needs at least one prompt, not {self.maximum}")
        if not 0 < self.margin < 0.5:
            raise ValueError(f"the margin is {self.margin}: it must lie between 0 and 0.5 (50 points)")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"the confidence is {self.confidence}: it must be at least 0.5 and below 1")

    @property
    def bar(self) -> float:
        """The win rate that the interval must lie above."""
        return 0.5 if self.goal is Goal.SUPERIORITY else 0.5 - self.margin


@dataclass(frozen=True)
class Decision:
    """`word` is the strongest statement that the interval carries, `stop` why no more is asked, None while it goes on.

    One interval carries all statements at once, so an evaluation for superiority may end with *not worse*, and one for
    non-inferiority with *better*. `below_half`: not worse by the margin, yet surely below one half.
    """

    word: Word
    stop: Stop | None
    win_rate: Estimate
    below_half: bool

    @property
    def goal_reached(self) -> bool:
        return self.stop is Stop.GOAL


def decide(plan: Plan, outcomes: Outcomes) -> Decision:
    """The decision on all that was judged so far. It asks whether bounds are passed, never where the mean is.

    Where the goal is non-inferiority and the interval lies between the bar and one half, the goal is reached: the margin
    was chosen beforehand as what doesn't matter.
    """
    win_rate = sequential.interval(outcomes, confidence=plan.confidence)
    below_half = _lies_below(plan, outcomes, 0.5)
    not_worse = _lies_above(plan, outcomes, 0.5 - plan.margin)
    if _lies_above(plan, outcomes, 0.5):
        word = Word.BETTER
    elif not_worse and (plan.goal is Goal.NON_INFERIORITY or not below_half):
        word = Word.NOT_WORSE
    else:
        word = Word.WORSE if below_half else Word.UNDECIDED
    return Decision(word, _stop(plan, outcomes), win_rate, below_half)


def first_stop(plan: Plan, values: Sequence[float]) -> tuple[int, Decision]:
    """(prompts, decision) at the first look that stops, where one looks after each prompt; else after all of them.

    values: (prompts,) win rates in the order in which they came.
    """
    for prompts in range(1, len(values) + 1):
        outcomes = tally(values[:prompts])
        if _stop(plan, outcomes) is not None:
            return prompts, decide(plan, outcomes)
    return len(values), decide(plan, tally(values))


def _stop(plan: Plan, outcomes: Outcomes) -> Stop | None:
    if _lies_above(plan, outcomes, plan.bar):
        return Stop.GOAL
    if _lies_below(plan, outcomes, 0.5):
        return Stop.WORSE
    return Stop.MAXIMUM if size(outcomes) >= plan.maximum else None


def _lies_above(plan: Plan, outcomes: Outcomes, bar: float) -> bool:
    center = mean(outcomes)
    return center is not None and center > bar and sequential.excludes(outcomes, bar, confidence=plan.confidence)


def _lies_below(plan: Plan, outcomes: Outcomes, bar: float) -> bool:
    center = mean(outcomes)
    return center is not None and center < bar and sequential.excludes(outcomes, bar, confidence=plan.confidence)
