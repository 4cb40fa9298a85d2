"""Two models on the same eval prompts, over one seed or several."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from app.stats.loop.paired import paired_by_prompt


def drawn(random: np.random.Generator, gain: float, seeds: int, prompts: int) -> np.ndarray:
    by_seed, by_prompt = random.normal(0, 0.5, size=(seeds, 1)), random.normal(0, 3, size=(1, prompts))
    return np.asarray(gain + by_seed + by_prompt + random.normal(0, 4, size=(seeds, prompts)))


def test_one_seed_is_students_paired_interval() -> None:
    d = drawn(np.random.default_rng(1), 0.4, 1, 50)
    interval = ttest_1samp(d[0], 0).confidence_interval()
    told = paired_by_prompt(d).difference
    assert (told.value, told.low, told.high) == pytest.approx((d.mean(), interval.low, interval.high))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_it_finds_what_was_planted_and_invents_nothing(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    there = [paired_by_prompt(drawn(random, 3.0, seeds, 60)).difference for _ in range(100)]
    absent = [paired_by_prompt(drawn(random, 0.0, seeds, 60)).difference for _ in range(200)]
    assert sum(one.low > 0 for one in there) >= 60
    assert sum(one.excludes(0.0) for one in absent) <= (10 if seeds > 1 else 30)  # one seed knows nothing of others


def test_no_difference_anywhere_has_no_width() -> None:
    told = paired_by_prompt(np.zeros((3, 10))).difference
    assert (told.value, told.low, told.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("differences", [np.ones((0, 5)), np.ones((1, 1)), np.ones(4), np.full((2, 3), np.nan)])
def test_nothing_to_compare_is_refused(differences: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"at least|finite"):
        paired_by_prompt(differences)
