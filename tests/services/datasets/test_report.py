"""What a dataset looks like, and what there is to say against it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest

from app.models import Choice, Source, Split
from app.services.collecting.messages import text_hash
from app.services.datasets.collected import Collected, Pair
from app.services.datasets.report import counts, sentence, statistics, warnings
from app.services.datasets.rules import Decision
from app.stats.agreement import Vote

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def pair(
    number: int,
    *,
    split: Split = Split.TRAIN,
    characters: tuple[int, int] = (10, 10),
    chosen: str = "",
    sources: tuple[str, str] = ("", ""),
) -> Pair:
    return Pair(
        number,
        number,
        split,
        Decision(chosen=FIRST, votes=1, votes_chosen=1),
        characters,
        characters,
        text_hash(chosen or str(number)),
        sources,
    )


def codes(collected: Collected) -> set[str]:
    return {code for code, _ in warnings(counts(collected), statistics(collected))}


def pairs_of(train: int = 200, evaluated: int = 40) -> list[Pair]:
    return [
        pair(number, split=Split.EVAL if number < evaluated else Split.TRAIN, characters=(10, 11 - 2 * (number % 2)))
        for number in range(train + evaluated)
    ]


def votes_on(pairs: list[Pair]) -> list[Vote]:
    """(pair, person, choice) of two people who agree."""
    return [(one.comparison_id, who, "first" if one.comparison_id % 2 else "second") for one in pairs for who in (1, 2)]


def collect(pairs: list[Pair], votes: Sequence[Vote] = (), **others: Any) -> Collected:
    collected = Collected(comparisons=len(pairs), judgments=len(votes), names={1: "Ann", 2: "Bo"}, **others)
    for one in pairs:
        collected.add(one)
    for _, of_pair in groupby(votes, key=lambda vote: vote[0]):
        collected.voted([(int(str(person)), choice) for _, person, choice in of_pair])
    return collected


def good(train: int = 200, evaluated: int = 40) -> Collected:
    """A set that nothing is to be said against."""
    pairs = pairs_of(train, evaluated)
    return collect(pairs, votes_on(pairs), sided=400, left_picked=205)


def test_a_good_set_gets_no_warning() -> None:
    assert codes(good()) == set()
    assert (
        sentence(counts(good()))
        == "200 pairs to train on and 40 pairs to evaluate with, from 480 judgments of 240 comparisons."
    )


@pytest.mark.parametrize(
    "code",
    [
        "too_few_pairs",
        "no_eval_pairs",
        "few_eval_pairs",
        "one_evaluator",
        "chosen_longer",
        "position_bias",
        "low_agreement",
        "repeated_chosen",
    ],
)
def test_each_fault_is_warned_of_alone(code: str) -> None:
    pairs, picked = pairs_of(), 205
    votes = votes_on(pairs)
    if code == "too_few_pairs":
        pairs = pairs_of(train=99)
    elif code == "no_eval_pairs":
        pairs = pairs_of(evaluated=0)
    elif code == "few_eval_pairs":
        pairs = pairs_of(evaluated=19)
    elif code == "one_evaluator":
        votes = [vote for vote in votes if vote[1] == 1 or int(str(vote[0])) < 50]
    elif code == "chosen_longer":
        pairs = [
            pair(one.comparison_id, split=one.split, characters=(12, 10) if number % 4 else (10, 12))
            for number, one in enumerate(pairs)
        ]
    elif code == "position_bias":
        picked = 250
    elif code == "low_agreement":
        votes = [(unit, who, "first" if who == 1 or int(str(unit)) % 2 else "second") for unit, who, _ in votes]
    elif code == "repeated_chosen":
        pairs[:30] = [
            pair(one.comparison_id, split=one.split, characters=one.characters, chosen="same") for one in pairs[:30]
        ]
    assert codes(collect(pairs, votes, sided=400, left_picked=picked)) == {code}


def test_sources_are_ranked_where_they_met() -> None:
    collected = collect(
        [
            pair(1, sources=("new", "old")),
            pair(2, sources=("new", "old")),
            pair(3, sources=("old", "new")),
            pair(4, sources=("old", "old")),
        ]
    )
    assert statistics(collected).sources == [Source("new", chosen=2, pairs=3), Source("old", chosen=1, pairs=3)]
