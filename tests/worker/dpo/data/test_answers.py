"""What is counted on answers, and what training changed in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dpo.data.answers import Answer, compared, repetition, style


def answer(*ids: int, ended: bool = True) -> Answer:
    return Answer(" ".join(map(str, ids)), ids, ended)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_repetition_is_the_share_of_four_grams_that_stood_before(ids: list[int]) -> None:
    again = sum(ids[at : at + 4] in [ids[old : old + 4] for old in range(at)] for at in range(len(ids) - 3))
    assert repetition(ids) == pytest.approx(again / (len(ids) - 3) if len(ids) > 3 else 0)


def test_a_loop_repeats_itself_and_a_plain_text_does_not() -> None:
    assert repetition([1, 2, 3, 4] * 20) > 0.9
    assert repetition(range(80)) == 0


def test_training_changed_what_differs_in_a_token() -> None:
    before = [answer(1, 2, 3), answer(4, 5, ended=False), answer(6)]
    after = [answer(1, 2, 3), answer(4, 7), answer(6, 6, 6, 6, 6, 6)]
    assert compared(before, after) == {
        "prompts": 3,
        "changed": 2,
        "before": {"tokens": 2.0, "ended": 2, "repetition": 0.0},
        "after": {"tokens": 11 / 3, "ended": 3, "repetition": pytest.approx(2 / 9)},
    }
    assert style(after).ended == 3


def test_nothing_was_asked_nothing_is_said() -> None:
    assert compared([], []) == {}
