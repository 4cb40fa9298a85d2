"""Rows hold each prompt once, and every completion token has the state that predicts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.dpo.pairs_for_tests import begin_alike, random_pairs
from worker.dpo.data.pairs import TokenPair
from worker.dpo.rows.masks import Strand, is_causal
from worker.dpo.rows.rows import common_length, plain_rows, shared_length, shared_rows

PAIRS = [TokenPair(1, (10, 11, 12), (20, 21), (30,)), TokenPair(2, (13,), (22,), (31, 32))]


def test_a_shared_row_holds_prompt_chosen_rejected_without_padding():
    rows = shared_rows(PAIRS)
    assert rows.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 13, 22, 31, 32]]
    assert rows.tokens == sum(map(shared_length, PAIRS))


def test_both_completions_take_their_positions_from_the_end_of_the_prompt():
    assert shared_rows(PAIRS).position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 1, 2]]


def test_the_last_prompt_token_predicts_the_first_token_of_both_completions():
    rows = shared_rows(PAIRS)
    assert rows.source.tolist() == [2, 3, 6, 2, 6, 8]
    assert rows.target.tolist() == [20, 21, 22, 30, 31, 32]
    assert rows.owner.tolist() == [0, 0, 1, 2, 3, 3]


def test_plain_rows_hold_one_padded_line_a_completion():
    rows = plain_rows(PAIRS, pad_id=0)
    assert rows.input_ids.tolist() == [[10, 11, 12, 20, 21], [13, 22, 0, 0, 0], [10, 11, 12, 30, 0], [13, 31, 32, 0, 0]]
    assert rows.position_ids.tolist() == [list(range(5))] * 4
    assert rows.lengths == (5, 2, 4, 3)
    assert [rows.input_ids.flatten().tolist()[place + 1] for place in rows.source] == rows.target.tolist()


def sequences_of(rows):
    """(ids, positions) of each whole sequence of a shared row, read along what its strands see, to the end of each strand."""
    ids, positions = rows.input_ids[0].tolist(), rows.position_ids[0].tolist()
    for strand in rows.layout.strands:
        places = [place for span in strand.whole for place in range(*span)]
        yield tuple(ids[place] for place in places), [positions[place] for place in places]


def test_the_strands_of_a_row_give_every_sequence_and_count_its_positions():
    pairs = begin_alike(random_pairs(20))
    rows = shared_rows(pairs)
    whole = {pair.prompt_ids + answer for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)}
    read = list(sequences_of(rows))
    assert {ids for ids, _ in read} == whole
    assert all(positions == list(range(len(ids))) for ids, positions in read)
    covered = [place for strand in rows.layout.strands for place in range(strand.begin, strand.end)]
    assert covered == list(range(rows.tokens))


def test_a_row_has_each_beginning_once():
    pairs = begin_alike(random_pairs(20))
    sequences = [pair.prompt_ids + answer for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)]
    assert shared_rows(pairs).tokens == len(
        {sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)}
    )


def test_every_target_follows_its_source():
    pairs = begin_alike(random_pairs(20))
    rows = shared_rows(pairs)
    ids, where = rows.input_ids[0].tolist(), rows.position_ids[0].tolist()
    targets = {number: [] for number in range(2 * len(pairs))}
    for source, target, owner in zip(rows.source.tolist(), rows.target.tolist(), rows.owner.tolist(), strict=True):
        targets[owner].append((ids[source], where[source], target))
    for number, pair in enumerate([*pairs, *pairs]):
        sequence = pair.prompt_ids + (pair.chosen_ids if number < len(pairs) else pair.rejected_ids)
        first = len(pair.prompt_ids) - 1
        assert targets[number] == [
            (sequence[place], place, sequence[place + 1]) for place in range(first, len(sequence) - 1)
        ]


def test_a_system_prompt_stands_once_in_front_of_two_pairs():
    rows = shared_rows([TokenPair(1, (5, 6, 20), (30,), (31,)), TokenPair(2, (5, 6, 21), (30,), (32,))])
    assert rows.input_ids.tolist() == [[5, 6, 20, 30, 31, 21, 30, 32]]
    assert rows.layout.strands == (
        Strand((), 0, 4), Strand(((0, 3),), 4, 5), Strand(((0, 2),), 5, 7), Strand(((0, 2), (5, 6)), 7, 8),
    )  # fmt: skip


def test_an_answer_that_two_pairs_have_in_common_is_computed_once():
    best, middle, worst = (30, 31), (40, 41, 42), (50,)
    rows = shared_rows([TokenPair(1, (5, 6), best, middle), TokenPair(2, (5, 6), middle, worst)])
    assert rows.tokens == 2 + len(best) + len(middle) + len(worst)
    assert rows.target.tolist() == [*best, *middle, *middle, *worst]


@pytest.mark.parametrize(("before", "own", "causal"), [(0, 5, True), (4, 5, True), (6, 5, False)])
def test_a_short_beginning_is_attended_again_and_a_long_one_is_masked(before, own, causal):
    assert is_causal(Strand(((0, before),) if before else (), before, before + own)) == causal


@given(st.lists(st.integers(0, 2), max_size=30).map(tuple), st.lists(st.integers(0, 2), max_size=30).map(tuple))
def test_the_common_beginning_is_found_to_the_token(left, right):
    length = common_length(left, right)
    assert left[:length] == right[:length]
    assert left[: length + 1] != right[: length + 1] or length == len(left) == len(right)


def test_an_empty_completion_adds_no_target():
    rows = shared_rows([TokenPair(1, (10, 11), (), (30,))])
    assert rows.owner.tolist() == [1]
    assert rows.source.tolist() == [1]


def test_a_pair_without_a_prompt_is_refused_by_line():
    with pytest.raises(ValueError, match="Line 7 has no prompt token"):
        shared_rows([TokenPair(7, (), (1,), (2,))])
