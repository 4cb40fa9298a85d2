"""Rows hold each prompt once, and every completion token has the state that predicts it."""

import pytest

from tests.worker.dpo.pairs_for_tests import random_pairs
from worker.dpo.pairs import TokenPair
from worker.dpo.rows import plain_rows, shared_length, shared_rows

PAIRS = [TokenPair(1, (10, 11, 12), (20, 21), (30,)), TokenPair(2, (13,), (22,), (31, 32))]


def test_a_shared_row_holds_prompt_chosen_rejected_without_padding():
    rows = shared_rows(PAIRS)
    assert rows.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 13, 22, 31, 32]]
    assert rows.tokens == sum(map(shared_length, PAIRS))


def test_both_completions_take_their_positions_from_the_end_of_the_prompt():
    assert shared_rows(PAIRS).position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 1, 2]]


def test_the_last_prompt_token_predicts_the_first_token_of_both_completions():
    rows = shared_rows(PAIRS)
    assert rows.source.tolist() == [2, 3, 2, 6, 6, 8]
    assert rows.target.tolist() == [20, 21, 30, 22, 31, 32]
    assert rows.owner.tolist() == [0, 0, 2, 1, 3, 3]


def test_plain_rows_hold_one_padded_line_a_completion():
    rows = plain_rows(PAIRS, pad_id=0)
    assert rows.input_ids.tolist() == [[10, 11, 12, 20, 21], [13, 22, 0, 0, 0], [10, 11, 12, 30, 0], [13, 31, 32, 0, 0]]
    assert rows.position_ids.tolist() == [list(range(5))] * 4
    assert rows.lengths == (5, 2, 4, 3)
    assert [rows.input_ids.flatten().tolist()[place + 1] for place in rows.source] == rows.target.tolist()


def test_every_source_in_a_shared_row_lies_before_its_target():
    pairs = random_pairs(30)
    rows = shared_rows(pairs)
    ids = rows.input_ids[0].tolist()
    for source, position in zip(rows.source.tolist(), rows.position_ids[0][rows.source].tolist(), strict=True):
        assert position >= 0
        assert source < len(ids) - 1
    assert rows.source.shape == rows.target.shape == rows.owner.shape


def test_an_empty_completion_adds_no_target():
    rows = shared_rows([TokenPair(1, (10, 11), (), (30,))])
    assert rows.owner.tolist() == [1]
    assert rows.source.tolist() == [1]


def test_a_pair_without_a_prompt_is_refused_by_line():
    with pytest.raises(ValueError, match="Line 7 has no prompt token"):
        shared_rows([TokenPair(7, (), (1,), (2,))])
