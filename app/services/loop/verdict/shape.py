"""A verdict as one typed object: what page, API, command line and model card show, and what is kept of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.models import Evaluation
from app.stats.loop.decision import Goal, Stop, Word
from app.stats.loop.estimate import Estimate

FORM = 1  # of this object: a kept one of another form is computed anew


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Interval(_Frozen):
    """A figure between 0 and 1 with its interval, from `count` prompts or votes. Of nothing: `value` is null."""

    value: float | None
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval":
        return cls(value=estimate.value, low=estimate.low, high=estimate.high, count=estimate.count)


class ToGo(_Frozen):
    """Judgments until it is decided: half of the possible futures need at most `median`, four of five lie from `low` to `high`.
    Null: so many futures are undecided at the maximum."""

    median: int | None
    low: int | None
    high: int | None
    goal: float = Field(description="The share of futures that reach the goal.")
    worse: float
    maximum: float


class Part(_Frozen):
    name: str
    win_rate: Interval


class OfPerson(_Frozen):
    """`raw`: the mean of this person's votes. `win_rate`: drawn towards everybody's as far as few votes demand."""

    user_id: int
    raw: float
    win_rate: Interval


class Without(_Frozen):
    """The win rate when one person's votes are left out. `tips`: the conclusion hangs on them."""

    user_id: int
    votes: int
    win_rate: Interval
    tips: bool


class OfSides(_Frozen):
    """How often this person chose what stood on the left. `clicks_a_side`: too far from half for chance."""

    user_id: int
    left: Interval
    clicks_a_side: bool


class OfSpeed(_Frozen):
    """`seconds`: the median. `unread`: the share of judgments that came faster than anybody reads."""

    user_id: int
    judgments: int
    seconds: float
    unread: float


class AtEqualLength(_Frozen):
    win_rate: Interval
    slope: Interval = Field(description="How much the log-odds of winning grow from equal length to far longer.")


class Guessed(_Frozen):
    """What guesses after the batch say. `accuracy`: given the guessers' own choices; 0.5 is taste alone."""

    accuracy: Interval
    p_value: float
    sign: bool
    guesses: int
    chose_new: float | None
    chose_old: float | None


class Telling(_Frozen):
    """Pairs whose texts may give a side away, how many of each kind, and the verdict without them."""

    pairs: int
    kinds: dict[str, int]
    word: Word
    win_rate: Interval


class Look(_Frozen):
    """The interval after so many prompts."""

    prompts: int
    value: float
    low: float
    high: float


class Basis(_Frozen):
    """What a kept verdict was computed from; while it is the same, the verdict is."""

    form: int = FORM
    state: str = ""
    judgments: int = 0
    newest_judgment: int = 0
    counted: int = 0
    guesses: int = 0


class Verdict(_Frozen):
    """`win_rate` is the interval that holds at all looks; everything from `equal_length` on is one look and decides nothing."""

    word: Word
    stop: Stop | None = Field(description="Why no more is asked; null while it goes on.")
    goal: Goal
    bar: float = Field(description="The win rate that the interval must lie above.")
    margin: float
    confidence: float
    maximum: int
    win_rate: Interval
    below_half: bool = Field(description="Not worse by the margin, yet surely below one half.")
    prompts: int = Field(description="Prompts that count, identical answers included.")
    planned: int = Field(description="Prompts of the plan.")
    left_out: dict[str, int] = Field(description="Prompts that don't count, by reason.")
    same: int = Field(description="Of those that count: both answers were the same, so nobody was asked.")
    won: int
    lost: int
    tied: int = Field(description="Neither won nor lost, identical answers included.")
    judgments: int
    people: int
    to_go: ToGo | None = Field(description="Null before the first prompt counts, and once it is decided.")
    equal_length: AtEqualLength | None
    longer_by: float | None = Field(description="Words by which the new answers are longer, on average.")
    parts_by: Literal["import", ""] = Field(description="What `parts` divides prompts by.")
    parts: list[Part]
    by_person: list[OfPerson]
    without: list[Without]
    sides: list[OfSides]
    speed: list[OfSpeed]
    guessed: Guessed | None
    telling: Telling | None
    looks: list[Look]
    picked_by_eval: bool = Field(
        description="The eval split that this rests on also picked the checkpoint's best step."
    )
    basis: Basis
    as_of: datetime

    @property
    def goal_reached(self) -> bool:
        return self.stop is Stop.GOAL


@dataclass(frozen=True)
class Kept:
    """An evaluation with its verdict; None before anything can count. `names`: of the people in it."""

    evaluation: Evaluation
    verdict: Verdict | None
    names: dict[int, str]
