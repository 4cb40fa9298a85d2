"""The plan: every pair once an epoch, in an order that only seed and epoch decide."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.dpo.pairs_for_tests import begin_alike, random_pairs
from worker.dpo.data.pairs import TokenPair
from worker.dpo.rows.packing import PlainPacking, SharedPacking
from worker.dpo.rows.plan import key_of, make_plan, micro_batches
from worker.dpo.rows.rows import plain_rows, shared_rows


def epoch(plan, number):
    steps = range(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch)
    return [index for step in steps for index in plan.batch(step)]


def test_every_pair_comes_once_an_epoch():
    plan = make_plan(37, batch_size=5, seed=1, epochs=3)
    for number in range(3):
        assert sorted(epoch(plan, number)) == list(range(37))


def test_the_order_changes_with_the_epoch_and_with_the_seed():
    plan, other = (make_plan(50, batch_size=8, seed=seed, epochs=2) for seed in (1, 2))
    orders = [epoch(plan, 0), epoch(plan, 1), epoch(other, 0), epoch(other, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_step_needs_no_step_before_it():
    plan = make_plan(50, batch_size=8, seed=3, epochs=4)
    forwards = [plan.batch(step) for step in range(plan.total_steps)]
    backwards = []
    for step in reversed(range(plan.total_steps)):
        # As a resumed run has it: another random state, and no step before this one.
        torch.manual_seed(step)
        backwards.append(make_plan(50, batch_size=8, seed=3, epochs=4).batch(step))
    assert backwards[::-1] == forwards


def test_a_training_state_of_an_earlier_version_goes_on_with_the_batches_that_it_began_with():
    plan = make_plan(10, batch_size=4, seed=42, epochs=2)
    assert [plan.batch(step) for step in range(6)] == [
        [1, 2, 3, 7], [0, 8, 4, 9], [5, 6], [8, 5, 2, 7], [6, 0, 4, 1], [9, 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(1, -1, 7), (2, -1, 14), (0.5, -1, 4), (0.01, -1, 1), (1, 3, 3), (1, 100, 100)]
)
def test_steps_come_from_epochs_unless_given(epochs, max_steps, steps):
    assert make_plan(50, batch_size=8, seed=0, epochs=epochs, max_steps=max_steps).total_steps == steps


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple)
ANSWERS = st.lists(st.integers(0, 2), max_size=30).map(tuple)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@given(
    pairs=st.lists(st.builds(TokenPair, st.just(1), PROMPTS, ANSWERS, ANSWERS), min_size=1, max_size=30),
    budget=st.integers(1, 200),
    processes=st.integers(1, 4),
)
def test_micro_batches_hold_every_pair_once_within_the_budget_and_in_equal_number(shared, pairs, budget, processes):
    dealt = micro_batches(
        range(len(pairs)), SharedPacking(pairs) if shared else PlainPacking(pairs), budget=budget, processes=processes
    )
    assert len(dealt) == processes
    assert len({len(mine) for mine in dealt}) == 1
    assert sorted(index for mine in dealt for held in mine for index in held) == list(range(len(pairs)))
    for held in (held for mine in dealt for held in mine if len(held) > 1):
        together = [pairs[index] for index in held]
        assert (shared_rows(together) if shared else plain_rows(together, pad_id=0)).tokens <= budget


def test_micro_batches_are_of_nearly_equal_size():
    (mine,) = micro_batches(range(20), SharedPacking(random_pairs(0, lengths=[(5, 3, 2)] * 20)), budget=110)
    assert sorted(len(held) for held in mine) == [10, 10]


def test_pairs_of_one_prompt_are_put_together_wherever_they_stand():
    groups = [random_pairs(0, seed=seed, lengths=[(40, 5, 5)] * 4) for seed in range(5)]
    same = [[replace(pair, prompt_ids=group[0].prompt_ids) for pair in group] for group in groups]
    pairs = [pair for four in zip(*same, strict=True) for pair in four]
    (mine,) = micro_batches(range(20), SharedPacking(pairs), budget=80)
    assert sorted(sorted(held) for held in mine) == [[first, first + 5, first + 10, first + 15] for first in range(5)]


def test_plain_lines_are_put_beside_others_of_their_length():
    pairs = random_pairs(0, lengths=[(90, 9, 9), (3, 3, 3)] * 8)
    (mine,) = micro_batches(range(16), PlainPacking(pairs), budget=8 * 2 * 99)
    assert sorted(sorted(held) for held in mine) == [list(range(0, 16, 2)), list(range(1, 16, 2))]


def test_all_pairs_together_take_what_one_row_takes():
    pairs = begin_alike(random_pairs(20))
    assert shared_rows(pairs).tokens <= SharedPacking(pairs).together() < sum(SharedPacking(pairs).alone)


def keyed(keys, seed=1):
    return make_plan(len(keys), batch_size=4, seed=seed, epochs=3, keys=tuple(keys))


def test_an_order_by_content_does_not_hang_on_places_or_on_a_pair_more():
    keys = [bytes([n]) * 8 for n in range(23)]
    whole, turned, without = keyed(keys), keyed(keys[::-1]), keyed(keys[:5] + keys[6:])
    for number in range(3):
        order = [keys[index] for index in epoch(whole, number)]
        assert sorted(order) == sorted(keys)
        assert order == [keys[::-1][index] for index in epoch(turned, number)]
        left = keys[:5] + keys[6:]
        assert [key for key in order if key != keys[5]] == [left[index] for index in epoch(without, number)]
    assert epoch(whole, 0) != epoch(whole, 1)
    assert epoch(whole, 0) != epoch(keyed(keys, seed=2), 0)


def test_a_pair_is_known_by_what_the_model_sees_of_it():
    first, second = random_pairs(2, seed=3)
    assert key_of(first) == key_of(replace(first, line=99, weight=0.5))
    assert key_of(first) != key_of(second)
    assert key_of(first) != key_of(replace(first, chosen_ids=first.rejected_ids, rejected_ids=first.chosen_ids))


def test_the_first_releases_plan_stays_what_it_was():
    plan = make_plan(9, batch_size=4, seed=42, epochs=1)
    assert epoch(plan, 0) == torch.randperm(9, generator=torch.Generator().manual_seed(42 * 1_000_003 + 1)).tolist()
