"""Folds keep groups together and are even; planted flips are a draw of their own for each planting."""

from collections import Counter

import pytest

from worker.dpo.ground.errors import BadData
from worker.dpo.margins.folds import flips, folds_of


def test_a_group_is_in_one_fold_and_folds_are_even():
    groups = [f"group {number % 17}" for number in range(60)]
    folds = folds_of(groups, folds=5, seed=0)
    assert len({(group, fold) for group, fold in zip(groups, folds, strict=True)}) == 17
    sizes = Counter(folds)
    assert sorted(sizes) == [0, 1, 2, 3, 4] and max(sizes.values()) - min(sizes.values()) <= 4
    assert folds_of(groups, folds=5, seed=0) == folds != folds_of(groups, folds=5, seed=1)


def test_too_few_groups_are_refused():
    with pytest.raises(BadData, match=r"2 groups.*--folds"):
        folds_of(["a", "b", "a"], folds=3, seed=0)


def test_flips_are_the_share_that_was_asked_for_and_differ_by_planting():
    draws = [flips(50, share=0.2, seed=0, planting=number) for number in (1, 2, 3)]
    assert all(len(draw) == 10 and draw <= set(range(50)) for draw in draws)
    assert len(set(draws)) == 3
    assert flips(50, share=0.2, seed=0, planting=1) == draws[0]
