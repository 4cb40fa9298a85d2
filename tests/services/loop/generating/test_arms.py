"""Which pairs are asked, and by which arm."""

from collections import Counter

import pytest
from scipy.stats import binomtest

from app.errors import Invalid
from app.models import Arm, Split
from app.services.loop.generating.arms import KEEP, Arms, Candidate, choose, distance, lot

FOUR = Arms.parse("random=0.4,margin=0.2,disagreement=0.2,diversity=0.2")


@pytest.mark.parametrize(
    ("text", "keep", "words"),
    [
        ("margin=1", None, "Random has a share of 0 %. Give it 20 % or more"),
        ("random=0.1,margin=0.9", None, "Random has a share of 10 %"),
        ("random=0.5,margin=0.4", None, "add up to 0.9"),
        ("random=0.5,luck=0.5", None, "There is no arm “luck”"),
        ("random=0.5,margin=half", None, "The share of margin is “half”"),
        ("random=0.5,margin=nan", None, "The share of margin is “nan”"),
        ("random=1.5,margin=-0.5", None, "The share of random is “1.5”"),
        ("random", None, "isn't ARM=SHARE"),
        ("random=0.5,random=0.5", None, "each arm once"),
        ("random=0.5,margin=0.5", 1.0, "no arm has a choice"),
        ("random=0.5,margin=0.5", 0.0, "Choose 0.05 to 1"),
        ("", 1.5, "Choose 0.05 to 1"),
    ],
)
def test_what_makes_no_arms_is_refused_in_words(text: str, keep: float | None, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Arms.parse(text, keep)


def test_nothing_said_asks_every_pair_by_chance() -> None:
    for arms in (Arms.parse(""), Arms.parse("random=1"), Arms.stored_as({})):
        assert (arms.chooses, arms.stored()) == (False, {})
        assert arms.of_prompt(7, Split.TRAIN, seed=1) is Arm.RANDOM
    assert Arms.parse("", 0.3).stored() == {"keep": 0.3}
    assert FOUR.keep == KEEP, "an arm needs a choice"
    assert Arms.parse("random=0.2, margin=0.8").keep == KEEP, "a fifth is enough"


def test_what_a_plan_stores_is_read_back() -> None:
    arms = Arms.stored_as(FOUR.stored() | {"checkpoint": 3})
    assert (arms.checkpoint_id, arms.wants_margins) == (3, True)
    assert arms.is_like(FOUR)
    assert not arms.is_like(Arms.parse("random=0.5,margin=0.5"))


def test_prompts_are_dealt_by_lot_and_those_that_measure_are_random() -> None:
    dealt = Counter(FOUR.of_prompt(number, Split.TRAIN, seed=3) for number in range(2000))
    for arm, share in FOUR.shares.items():
        assert binomtest(dealt[arm], 2000, share).pvalue > 0.001
    again = [FOUR.of_prompt(number, Split.TRAIN, seed=3) for number in range(50)]
    assert again == [FOUR.of_prompt(number, Split.TRAIN, seed=3) for number in range(50)]
    assert again != [FOUR.of_prompt(number, Split.TRAIN, seed=4) for number in range(50)]
    assert {FOUR.of_prompt(number, Split.EVAL, seed=3) for number in range(200)} == {Arm.RANDOM}


def test_a_lot_is_even() -> None:
    drawn = [lot("pair", 1, number) for number in range(4000)]
    assert all(0 <= one < 1 for one in drawn)
    assert binomtest(sum(one < 0.3 for one in drawn), 4000, 0.3).pvalue > 0.001


def taken(candidates: list[Candidate], keep: float = 0.5, **more: list[frozenset[str]]) -> list[tuple[int, Arm | None]]:
    return choose(candidates, keep=keep, seed=5, **more)


def test_the_smallest_margins_are_asked() -> None:
    margins = [3.0, 0.2, 1.0, 0.1, 2.0, 0.3]
    told = taken([Candidate((number,), Arm.MARGIN, margin=one) for number, one in enumerate(margins)])
    assert told == [(1, Arm.MARGIN), (3, Arm.MARGIN), (5, Arm.MARGIN)]


def test_the_prompts_on_which_people_disagreed_most_are_asked() -> None:
    shares = [None, 0.5, 0.6, 0.4, None, 0.45]
    told = taken([Candidate((number,), Arm.DISAGREEMENT, disagreement=one) for number, one in enumerate(shares)])
    assert told == [(1, Arm.DISAGREEMENT), (2, Arm.DISAGREEMENT), (5, Arm.DISAGREEMENT)]


def test_what_an_arm_knows_nothing_of_is_drawn_and_comes_by_no_arm() -> None:
    told = taken([Candidate((number,), Arm.MARGIN, margin=1.0 if number == 4 else None) for number in range(8)])
    assert len(told) == 4
    assert [arm for place, arm in told if place == 4] == [Arm.MARGIN]
    assert {arm for place, arm in told if place != 4} == {None}


def test_the_farthest_pairs_are_asked() -> None:
    said = [
        "the cat sat",
        "the cat sat down",
        "of ships and sails",
        "the cat sat",
        "prime numbers are odd",
        "ships and sails",
    ]
    candidates = [Candidate((number,), Arm.DIVERSITY, words=frozenset(one.split())) for number, one in enumerate(said)]
    first = {place for place, arm in taken(candidates) if arm is Arm.DIVERSITY}
    assert len(first & {0, 1, 3}) == len(first & {2, 5}) == len(first & {4}) == 1
    known = taken(candidates, 1 / 6, asked=[frozenset(said[0].split()), frozenset(said[2].split())])
    assert known == [(4, Arm.DIVERSITY)]


def test_many_pairs_are_spread_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.loop.generating.arms.COMPARED", 7)
    candidates = [
        Candidate((number,), Arm.DIVERSITY, words=frozenset(f"{number // 2} x".split())) for number in range(40)
    ]
    told = taken(candidates)
    assert (len(told), {arm for _, arm in told}) == (20, {Arm.DIVERSITY})


def test_as_many_are_asked_as_were_wanted_on_average() -> None:
    one_each = sum(len(choose([Candidate((number,), Arm.RANDOM)], keep=0.3, seed=1)) for number in range(1000))
    assert binomtest(one_each, 1000, 0.3).pvalue > 0.001
    mixed = [Candidate((number,), FOUR.of_prompt(number, Split.TRAIN, seed=2), margin=1.0) for number in range(400)]
    assert abs(len(taken(mixed)) - 200) <= len(Arm) / 2


def test_distance_is_that_of_sets() -> None:
    assert distance(frozenset("ab"), frozenset("ab")) == 0
    assert distance(frozenset("ab"), frozenset("cd")) == 1
    assert distance(frozenset("ab"), frozenset("bc")) == pytest.approx(2 / 3)
    assert distance(frozenset(), frozenset()) == 0
