"""Arms: by which rule pairs of new answers come to be asked, so that what each rule's judgments are worth can be measured. Pure.

Prompts are dealt to arms by lot, so each arm has the same sort of prompts. Each arm then asks a share of its candidate pairs: by
chance, or those that its rule puts first. Prompts of the eval split are always random: what measures must not be chosen.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import Invalid
from app.models import Arm, Split

LEAST_RANDOM = 0.2
KEEP = 0.5  # of the candidate pairs, where an arm is to choose and nobody says how many
LEAST_KEEP = 0.05
COMPARED = 400  # pairs among which the farthest is looked for
WORDS = {
    Arm.RANDOM: "random",
    Arm.MARGIN: "small margin",
    Arm.DISAGREEMENT: "disagreement",
    Arm.DIVERSITY: "diversity",
}
NEXT_STEP = "Write shares that add up to 1, such as random=0.5,margin=0.3,diversity=0.2."


@dataclass(frozen=True, slots=True)
class Arms:
    """Shares of the prompts by arm, none for random alone; the share of the candidate pairs that is asked; and the checkpoint whose
    margins count, once it is known."""

    shares: Mapping[Arm, float] = field(default_factory=dict)
    keep: float = 1.0
    checkpoint_id: int | None = None

    @classmethod
    def of(cls, shares: Mapping[str, Any], keep: float | None = None) -> "Arms":
        """From a request. Raises Invalid."""
        read = {_arm(name): _share(name, value) for name, value in shares.items()}
        read = {arm: share for arm, share in read.items() if share}
        if read and abs(math.fsum(read.values()) - 1) > 1e-6:
            raise Invalid(f"The shares add up to {math.fsum(read.values()):g}.", NEXT_STEP, field="arms")
        random = read.get(Arm.RANDOM, 0.0 if read else 1.0)
        if random < LEAST_RANDOM - 1e-9:
            raise Invalid(
                f"Random has a share of {100 * random:g} %.",
                f"Give it {100 * LEAST_RANDOM:g} % or more: without pairs drawn by chance nobody can tell what the others are worth.",
                field="arms",
            )
        is_random = random > 1 - 1e-9
        kept = keep if keep is not None else 1.0 if is_random else KEEP
        if not LEAST_KEEP <= kept <= 1:
            raise Invalid(
                f"A share of {kept:g} of the pairs was to be asked.", f"Choose {LEAST_KEEP:g} to 1.", field="keep"
            )
        if not is_random and kept == 1:
            raise Invalid(
                "All candidate pairs are to be asked, so no arm has a choice.",
                f"Ask a share of them, such as {KEEP:g}.",
                field="keep",
            )
        return cls({} if is_random else read, float(kept))

    @classmethod
    def parse(cls, text: str, keep: float | None = None) -> "Arms":
        """`random=0.5,margin=0.5`; nothing is random alone. Raises Invalid."""
        shares: dict[str, Any] = {}
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, equals, share = word.partition("=")
            if not equals or name.strip() in shares:
                raise Invalid(f"“{word[:60]}” isn't ARM=SHARE, each arm once.", NEXT_STEP, field="arms")
            shares[name.strip()] = share.strip()
        return cls.of(shares, keep)

    @classmethod
    def stored_as(cls, stored: Mapping[str, Any]) -> "Arms":
        """As a plan holds it; of a plan of before there were arms, too."""
        shares = {Arm(name): float(share) for name, share in stored.get("shares", {}).items()}
        return cls(shares, float(stored.get("keep", 1.0)), stored.get("checkpoint"))

    def stored(self) -> dict[str, Any]:
        """As a plan holds it: what isn't the default."""
        told: dict[str, Any] = (
            {"shares": {arm.value: share for arm, share in self.shares.items()}} if self.shares else {}
        )
        told |= {"keep": self.keep} if self.keep < 1 else {}
        return told | ({"checkpoint": self.checkpoint_id} if self.checkpoint_id else {})

    @property
    def chooses(self) -> bool:
        """Whether not every candidate pair is asked."""
        return self.keep < 1

    @property
    def wants_margins(self) -> bool:
        return Arm.MARGIN in self.shares

    def sentences(self, checkpoint_id: int | None = None) -> list[str]:
        """For people: how many of the pairs are asked, and by which arms."""
        if not self.chooses:
            return []
        told = [f"{100 * self.keep:.0f} % of the candidate pairs will be asked, the others never."]
        if self.shares:
            shares = ", ".join(f"{WORDS[arm]} {100 * self.shares[arm]:.0f} %" for arm in Arm if arm in self.shares)
            told.append(f"Prompts of the train split are dealt by lot: {shares}. Those of the eval split are random.")
        if checkpoint_id:
            told.append(
                f"Checkpoint {checkpoint_id} and its base score the answers for the small margins, which takes longer."
            )
        return told

    def is_like(self, other: "Arms") -> bool:
        """Whether both ask for the same; the newest checkpoint may have changed."""
        return (dict(self.shares), self.keep) == (dict(other.shares), other.keep)

    def of_prompt(self, prompt_id: int, split: Split, *, seed: int) -> Arm:
        """The arm to which a prompt is dealt, the same each time."""
        if not self.shares or split is not Split.TRAIN:
            return Arm.RANDOM
        place, end = lot("arm", seed, prompt_id), 0.0
        for arm in Arm:
            end += self.shares.get(arm, 0.0)
            if place < end:
                return arm
        return Arm.RANDOM


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that may be asked, of a prompt of an arm. margin: |difference of both answers' rewards|, None where it isn't known.
    disagreement: how far people disagreed on the prompt, None where they didn't or nothing is known. words: those of prompt and answers."""

    key: tuple[int, ...]
    arm: Arm
    margin: float | None = None
    disagreement: float | None = None
    words: frozenset[str] = frozenset()


def choose(
    candidates: Sequence[Candidate], *, keep: float, seed: int, asked: Sequence[frozenset[str]] = ()
) -> list[tuple[int, Arm | None]]:
    """Which candidates are asked: (place among them, the arm by which).

    Each arm asks `keep` of its own. Where its rule says nothing of as many, the rest are drawn by lot and come by no arm (None).
    asked: the words of pairs that were asked before, for diversity.
    """
    taken: list[tuple[int, Arm | None]] = []
    for arm in Arm:
        own = [place for place, one in enumerate(candidates) if one.arm is arm]
        if not own:
            continue
        by_lot = sorted(own, key=lambda place: lot("pair", seed, *candidates[place].key))
        wanted = keep * len(own)
        count = int(wanted) + (lot("part", seed, arm.value, *candidates[own[0]].key) < wanted - int(wanted))
        first = _ranked(arm, candidates, by_lot, count, asked)[:count]
        rest = [place for place in by_lot if place not in set(first)]
        taken += [(place, arm) for place in first] + [(place, None) for place in rest[: count - len(first)]]
    return sorted(taken, key=lambda one: one[0])


def lot(*parts: object) -> float:
    """A number from 0 to 1 that is the same for the same parts, and says nothing else of them."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def distance(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard distance of two sets of words."""
    either = len(one | other)
    return 1 - len(one & other) / either if either else 0.0


def _ranked(
    arm: Arm, candidates: Sequence[Candidate], by_lot: list[int], count: int, asked: Sequence[frozenset[str]]
) -> list[int]:
    """Candidates of one arm in the order of its rule, those that it says nothing of left out; equal ones as the lot has them."""
    match arm:
        case Arm.MARGIN:
            known = [(place, margin) for place in by_lot if (margin := candidates[place].margin) is not None]
            return [place for place, _ in sorted(known, key=lambda one: one[1])]
        case Arm.DISAGREEMENT:
            told = [(place, share) for place in by_lot if (share := candidates[place].disagreement) is not None]
            return [place for place, _ in sorted(told, key=lambda one: -one[1])]
        case Arm.DIVERSITY:
            return _spread(candidates, by_lot, count, asked)
    return by_lot


def _spread(
    candidates: Sequence[Candidate], by_lot: list[int], count: int, asked: Sequence[frozenset[str]]
) -> list[int]:
    """Farthest first (Gonzalez 1985): again and again the one whose nearest among those that were asked or chosen is farthest.

    Of many candidates some at a time, each part with its share, so that the work doesn't grow with their square.
    """
    chosen: list[int] = []
    for start in range(0, len(by_lot), COMPARED):
        part = by_lot[start : start + COMPARED]
        before = [*asked, *(candidates[place].words for place in chosen)][-COMPARED:]
        nearest = {
            place: min((distance(candidates[place].words, one) for one in before), default=2.0) for place in part
        }
        until = math.ceil(count * (start + len(part)) / len(by_lot))
        while nearest and len(chosen) < until:
            farthest = max(nearest, key=lambda place: nearest[place])
            del nearest[farthest]
            chosen.append(farthest)
            for place in nearest:
                nearest[place] = min(nearest[place], distance(candidates[place].words, candidates[farthest].words))
    return chosen


def _arm(name: str) -> Arm:
    try:
        return Arm(name.strip().lower())
    except ValueError:
        known = ", ".join(arm.value for arm in Arm)
        raise Invalid(f"There is no arm “{name[:40]}”.", f"There are: {known}.", field="arms") from None


def _share(name: str, value: Any) -> float:
    try:
        share = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise Invalid(f"The share of {name} is “{str(value)[:40]}”.", NEXT_STEP, field="arms")
    return share
