"""What a rule makes of a project, summed up while it goes by: a few numbers for each pair, whatever its size."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.models import Arm, Split
from app.services.datasets.rules import Decision
from app.stats.agreement import Tally


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison that goes into the files; lengths are (chosen, rejected)."""

    comparison_id: int
    prompt_id: int
    split: Split
    decision: Decision
    characters: tuple[int, int]
    words: tuple[int, int]
    chosen_hash: str
    sources: tuple[str, str]
    arm: Arm | None = None


def numbers() -> "array[int]":
    """64-bit numbers: eight bytes each, where a list takes up to forty."""
    return array("q")


@dataclass
class Collected:
    """Lengths are of the chosen and of the rejected answers; `texts` are the first 15 digits of the chosen texts' hashes.

    `votes` holds no skips and no imported judgments, of which there are `imported`; `left_picked` of `sided` picks fell on
    the left answer; `names` are people's.
    """

    comparisons: int = 0
    judgments: int = 0
    excluded_judgments: int = 0
    pairs: int = 0
    evaluated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    characters: tuple["array[int]", "array[int]"] = field(default_factory=lambda: (numbers(), numbers()))
    words: tuple["array[int]", "array[int]"] = field(default_factory=lambda: (numbers(), numbers()))
    texts: "array[int]" = field(default_factory=numbers)
    prompts: "array[int]" = field(default_factory=numbers)
    chosen_from: Counter[str] = field(default_factory=Counter)
    taken_from: Counter[str] = field(default_factory=Counter)
    arms: Counter[str] = field(default_factory=Counter)
    random_eval: int = 0
    weight: float = 0.0
    p_chosen: float = 0.0
    votes: Tally = field(default_factory=Tally)
    imported: int = 0
    left_picked: int = 0
    sided: int = 0
    names: dict[int, str] = field(default_factory=dict)

    def add(self, pair: Pair) -> None:
        """Counts a pair that goes into the files."""
        self.pairs += 1
        self.evaluated += pair.split is Split.EVAL
        self.count_arm(pair.split, pair.arm)
        for lengths, of_pair in ((self.characters, pair.characters), (self.words, pair.words)):
            for side, length in zip(lengths, of_pair, strict=True):
                side.append(length)
        self.texts.append(int(pair.chosen_hash[:15], 16))
        self.prompts.append(pair.prompt_id)
        if pair.sources[0] != pair.sources[1]:
            self.chosen_from[pair.sources[0]] += 1
            self.taken_from.update(pair.sources)
        self.weight += pair.decision.weight
        self.p_chosen += pair.decision.p_chosen

    def count_arm(self, split: Split, arm: Arm | None) -> None:
        """Counts by which arm a pair that goes into the files was asked."""
        if split is Split.EVAL:
            self.random_eval += arm is Arm.RANDOM
        elif arm is not None:
            self.arms[arm.value] += 1

    def voted(self, votes: Sequence[tuple[int, str]]) -> None:
        """Counts what people said of one comparison: (person, choice)."""
        self.votes.add(votes)
