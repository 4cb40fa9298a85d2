"""What a dataset looks like, and what there is to say against it."""

import pytest

from app.models import Choice, Source, Split
from app.services.datasets.report import Collected, Pair, counts, sentence, statistics, warnings
from app.services.datasets.rules import Decision

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
        chosen or str(number),
        sources,
    )


def codes(collected: Collected) -> set[str]:
    return {code for code, _ in warnings(counts(collected), statistics(collected))}


def good(train: int = 200, evaluated: int = 40) -> Collected:
    """A set that nothing is to be said against."""
    pairs = [
        pair(number, split=Split.EVAL if number < evaluated else Split.TRAIN, characters=(10, 11 - 2 * (number % 2)))
        for number in range(train + evaluated)
    ]
    said = [
        (number, person, "first" if number % 2 else "second")
        for number in range(train + evaluated)
        for person in (1, 2)
    ]
    return Collected(
        comparisons=len(pairs),
        judgments=len(said),
        pairs=pairs,
        votes=said,
        sided=400,
        left_picked=205,
        names={1: "Ann", 2: "Bo"},
    )


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
    collected = good()
    if code == "too_few_pairs":
        collected = good(train=99)
    elif code == "no_eval_pairs":
        collected = good(evaluated=0)
    elif code == "few_eval_pairs":
        collected = good(evaluated=19)
    elif code == "one_evaluator":
        collected.votes = [vote for vote in collected.votes if vote[1] == 1] + [
            vote for vote in collected.votes if vote[1] == 2
        ][:50]
    elif code == "chosen_longer":
        collected.pairs = [
            pair(one.comparison_id, split=one.split, characters=(12, 10) if number % 4 else (10, 12))
            for number, one in enumerate(collected.pairs)
        ]
    elif code == "position_bias":
        collected.left_picked = 250
    elif code == "low_agreement":
        collected.votes = [
            (unit, person, "first" if person == 1 or unit % 2 else "second") for unit, person, _ in collected.votes
        ]
    elif code == "repeated_chosen":
        collected.pairs[:30] = [
            pair(one.comparison_id, split=one.split, characters=one.characters, chosen="same")
            for one in collected.pairs[:30]
        ]
    assert codes(collected) == {code}


def test_sources_are_ranked_where_they_met() -> None:
    collected = Collected(
        pairs=[
            pair(1, sources=("new", "old")),
            pair(2, sources=("new", "old")),
            pair(3, sources=("old", "new")),
            pair(4, sources=("old", "old")),
        ]
    )
    assert statistics(collected).sources == [Source("new", chosen=2, pairs=3), Source("old", chosen=1, pairs=3)]
