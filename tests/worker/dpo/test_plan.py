"""The plan: every pair once an epoch, in an order that only seed and epoch decide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dpo.plan import make_plan, micro_batches


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
    assert [plan.batch(step) for step in range(20)][17] == make_plan(50, batch_size=8, seed=3, epochs=4).batch(17)


@pytest.mark.parametrize(("epochs", "max_steps", "steps"), [(1, -1, 7), (2, -1, 14), (0.5, -1, 4), (0.01, -1, 1), (1, 3, 3), (1, 100, 100)])
def test_steps_come_from_epochs_unless_given(epochs, max_steps, steps):
    assert make_plan(50, batch_size=8, seed=0, epochs=epochs, max_steps=max_steps).total_steps == steps


@given(
    costs=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    budget=st.integers(1, 200),
    processes=st.integers(1, 4),
)
def test_micro_batches_hold_every_pair_once_within_the_budget_and_in_equal_number(costs, budget, processes):
    dealt = micro_batches(range(len(costs)), costs, budget=budget, processes=processes)
    assert len(dealt) == processes
    assert len({len(mine) for mine in dealt}) == 1
    assert sorted(index for mine in dealt for held in mine for index in held) == list(range(len(costs)))
    for held in (held for mine in dealt for held in mine):
        assert len(held) <= 1 or sum(costs[index] for index in held) <= budget


def test_micro_batches_are_of_nearly_equal_size():
    (mine,) = micro_batches(range(20), [10] * 20, budget=110)
    assert sorted(len(held) for held in mine) == [10, 10]
