"""Which answers are paired, by each rule."""

import pytest

from app.models import Finish, Pairing
from app.services.loop.generating.pairing import Given, deal

TEXTS = ("Apples are red.", "Bananas are yellow and long.", "Cherries grow on trees in summer.", "Dates are sweet.")


def given(*places: tuple[int, int], texts: tuple[str, ...] = TEXTS, finish: Finish = Finish.STOP) -> list[Given]:
    return [Given(source, sample, text, finish) for (source, sample), text in zip(places, texts, strict=False)]


def test_across_puts_each_two_sources_against_each_other_sample_by_sample() -> None:
    dealt = deal(given((0, 0), (1, 0), (0, 1), (1, 1)), Pairing.ACROSS)
    assert dealt.pairs == [(0, 1), (2, 3)]
    assert deal(given((0, 0), (1, 0), (2, 0)), Pairing.ACROSS).pairs == [(0, 1), (0, 2), (1, 2)]


def test_round_robin_puts_each_against_the_next_in_turns_of_the_sources() -> None:
    assert deal(given((0, 0), (1, 0), (0, 1), (1, 1)), Pairing.ROUND_ROBIN).pairs == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert deal(given((0, 0), (0, 1)), Pairing.ROUND_ROBIN).pairs == [(0, 1)]
    assert deal(given((0, 0)), Pairing.ROUND_ROBIN).pairs == []


def test_no_rule_makes_no_pairs() -> None:
    assert deal(given((0, 0), (1, 0)), Pairing.NONE).pairs == []


@pytest.mark.parametrize(
    ("other", "same", "near"),
    [
        ("Yes,  it is open.\n", 1, 0),
        ("yes, it is open!", 0, 1),
        ("No, it is closed.", 0, 0),
    ],
)
def test_identical_and_nearly_identical_answers_are_counted_and_never_paired(other: str, same: int, near: int) -> None:
    dealt = deal(given((0, 0), (1, 0), texts=("Yes, it is open.", other)), Pairing.ACROSS)
    assert (dealt.same, dealt.near, len(dealt.pairs)) == (same, near, 1 - same - near)


def test_failed_and_empty_answers_are_in_no_pair() -> None:
    answers = [*given((0, 0)), Given(1, 0, "it broke", Finish.FAILED), Given(2, 0, " \n", Finish.STOP)]
    dealt = deal(answers, Pairing.ACROSS)
    assert dealt.pairs == []
    assert dealt.marks == [[], [], ["empty"]]


def test_answers_are_marked() -> None:
    answers = [
        Given(0, 0, "I am ChatGPT.", Finish.STOP),
        Given(1, 0, "I am  ChatGPT.", Finish.LENGTH),
        Given(2, 0, "As Tinylocal I can't say.", Finish.STOP),
    ]
    assert deal(answers, Pairing.NONE, names=["tinylocal", "ab"]).marks == [
        ["names_a_model"],
        ["identical", "names_a_model", "at_limit"],
        ["names_a_model"],
    ]
