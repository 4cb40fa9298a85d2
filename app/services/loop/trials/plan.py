"""What a trial compares: which arms, over how many seeds, and which pairs each run leaves out. Pure.

Of each seed one run leaves out so many pairs of the random arm, and one run for each arm as many of that arm's. So all are trained on
equally many pairs, and two of them differ in one thing: the first has the arm's pairs where the other has random ones.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import Invalid
from app.models import Arm, Statistics
from app.services.loop.generating.arms import WORDS, lot
from app.stats.loop.arms import FEWEST_SEEDS

MOST_SEEDS = 20
FEWEST_PAIRS = 10  # of an arm: of fewer nothing can be told
FEWEST_EVAL = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """The arms that are compared with the random one, and how many seeds there are."""

    arms: tuple[Arm, ...]
    seeds: int = FEWEST_SEEDS

    @classmethod
    def of(cls, arms: Sequence[str], seeds: int = FEWEST_SEEDS) -> "Plan":
        """From a request. Raises Invalid."""
        read = []
        for name in arms:
            word = name.strip().lower()
            if word not in set(Arm) or word == Arm.RANDOM:
                known = ", ".join(arm.value for arm in Arm if arm is not Arm.RANDOM)
                raise Invalid(
                    f"“{name[:40]}” is no arm to be compared with random.", f"There are: {known}.", field="arms"
                )
            read.append(Arm(word))
        if not read:
            raise Invalid("No arm was named.", "Choose one or more.", field="arms")
        if not FEWEST_SEEDS <= seeds <= MOST_SEEDS:
            raise Invalid(f"{seeds} seeds were wanted.", f"Choose {FEWEST_SEEDS} to {MOST_SEEDS}.", field="seeds")
        return cls(tuple(arm for arm in Arm if arm in read), seeds)

    @classmethod
    def stored_as(cls, stored: Mapping[str, Any]) -> "Plan":
        return cls(tuple(Arm(name) for name in stored["arms"]), int(stored["seeds"]))

    def stored(self) -> dict[str, Any]:
        return {"arms": [arm.value for arm in self.arms], "seeds": self.seeds}

    @property
    def left_out(self) -> tuple[Arm, ...]:
        """Of which arm the runs of one seed leave pairs out: first of random, with which the others are compared."""
        return (Arm.RANDOM, *self.arms)

    @property
    def runs(self) -> int:
        return self.seeds * len(self.left_out)

    def swapped(self, counts: Mapping[str, int]) -> int:
        """How many pairs each run leaves out: as many as the smallest arm has. counts: train pairs by arm."""
        return min(counts.get(arm.value, 0) for arm in self.left_out)

    def check_for(self, statistics: Statistics, train: int) -> None:
        """Raises Invalid for a snapshot in which there is too little to compare."""
        if not statistics.arms:
            raise Invalid(
                "The run's snapshot holds no pairs that an arm asked.",
                "Ask for new answers by arms, have their pairs judged, and train on them.",
                field="run",
            )
        for arm in self.left_out:
            if (there := statistics.arms.get(arm.value, 0)) < FEWEST_PAIRS:
                raise Invalid(
                    f"The run was trained on {there} pairs of the arm “{WORDS[arm]}”.",
                    f"{FEWEST_PAIRS} are the fewest that can be compared: have more judged, or leave the arm out.",
                    field="arms",
                )
        if statistics.random_eval < FEWEST_EVAL:
            raise Invalid(
                f"The run's snapshot has {statistics.random_eval} eval pairs of the random arm.",
                f"{FEWEST_EVAL} are the fewest that can measure: ask for new answers to prompts of the eval split too.",
                field="run",
            )
        if train - self.swapped(statistics.arms) < 1:
            raise Invalid("Nothing would be left to train on.", "Have more pairs judged.", field="run")

    def choose(self, of_arm: Collection[int], *, count: int, seed: int, arm: Arm) -> frozenset[int]:
        """Which of an arm's pairs a run leaves out, by lot."""
        drawn = sorted(of_arm, key=lambda number: (lot("trial", seed, arm.value, number), number))
        return frozenset(drawn[:count])


def seed_of(config: Mapping[str, Any], place: int) -> int:
    """The seed of a trial's runs at a place, other than that of the run whose settings they have."""
    return (int(config.get("seed") or 0) + 1 + place) % 2**31


def points(margins: Sequence[float]) -> float:
    """Accuracy over pairs in points: a pair is right where its margin is above 0, half right at 0."""
    return 100 * math.fsum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / len(margins)
