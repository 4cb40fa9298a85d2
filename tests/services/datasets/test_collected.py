"""What is summed up of pairs that go by."""

import sys

from app.models import Choice, Split
from app.services.collecting.messages import text_hash
from app.services.datasets.collected import Collected, Pair
from app.services.datasets.report import counts, statistics
from app.services.datasets.rules import Decision


def pair(number: int) -> Pair:
    return Pair(
        number,
        number // 2,
        Split.EVAL if number % 4 == 0 else Split.TRAIN,
        Decision(chosen=Choice.FIRST, weight=0.5 + number % 2, p_chosen=0.75, votes=1, votes_chosen=1),
        characters=(10 + number % 3, 11),
        words=(2, 3),
        chosen_hash=text_hash(str(number % 500)),
        sources=("new", "old"),
    )


def collect(count: int) -> Collected:
    collected = Collected(comparisons=count)
    for number in range(count):
        collected.add(pair(number))
        collected.voted([(1, "first"), (2, "first" if number % 2 else "second")])
    return collected


def test_sums_are_those_of_all_pairs() -> None:
    collected = collect(1000)
    told, figures = counts(collected), statistics(collected)
    assert (told.pairs, told.train, told.eval) == (1000, 750, 250)
    assert (figures.prompts, figures.repeated_chosen, figures.mean_weight, figures.mean_p_chosen) == (
        500,
        1000,
        1,
        0.75,
    )
    assert (figures.chosen_longer.count, figures.chosen_longer.total) == (333, 667)
    assert (figures.words.chosen.mean, figures.characters.rejected.longest) == (2, 11)
    assert figures.agreement.same == 0.5 and figures.agreement.comparisons == 1000


def test_a_pair_leaves_some_numbers_and_a_vote_none() -> None:
    collected = collect(20_000)
    arrays = (*collected.characters, *collected.words, collected.texts, collected.prompts)
    assert sum(map(sys.getsizeof, arrays)) < 20_000 * 64
    assert len(collected.votes.patterns) == 2 and len(collected.votes.made) == 2
