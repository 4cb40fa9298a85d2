"""The stated precision of a list of contradicting pairs."""

import pytest

from app.stats.loop.flips import Planting, list_quality
from app.stats.loop.win_rate import wilson


def planting(pairs: int, flipped: range, listed: range) -> Planting:
    return Planting(frozenset(range(pairs)), frozenset(flipped), frozenset(listed))


def test_precision_recall_and_base_rate_are_counted() -> None:
    # 100 of 1,000 are flipped; 50 are listed, 40 of them flipped.
    quality = list_quality([planting(1000, range(100), range(60, 110))])
    assert (quality.base_rate, quality.precision.value, quality.recall.value) == (0.1, 0.8, 0.4)
    assert (quality.precision.count, quality.recall.count) == (50, 100)
    assert quality.precision.low < 0.8 < quality.precision.high
    assert quality.reliable


def test_one_planting_is_little_wider_than_wilson() -> None:
    quality = list_quality([planting(1000, range(100), range(60, 110))])
    plain = wilson(0.8, 50, count=50)
    assert plain.high - plain.low <= quality.precision.high - quality.precision.low < 1.15 * (plain.high - plain.low)


def test_plantings_that_list_other_pairs_narrow_it_and_those_that_list_the_same_hardly() -> None:
    same = [planting(1000, range(100), range(60, 110))] * 3
    others = [planting(1000, range(100 * i, 100 * i + 100), range(100 * i + 60, 100 * i + 110)) for i in range(3)]
    one, thrice, apart = list_quality(same[:1]).precision, list_quality(same).precision, list_quality(others).precision
    assert apart.high - apart.low < 0.7 * (one.high - one.low)
    assert thrice.high - thrice.low > 0.9 * (one.high - one.low)


def test_below_three_times_the_base_rate_it_is_not_reliable() -> None:
    # 20 % flipped: even 55 % of the list being flips isn't enough, and by lot it is 20 %.
    assert not list_quality([planting(1000, range(200), range(145, 245))]).reliable
    assert list_quality([planting(1000, range(200), range(120, 220))]).reliable
    # Twelve of twenty look like six times the base rate of 10 %, four of ten don't carry three times.
    assert list_quality([planting(1000, range(100), range(88, 108))]).reliable
    assert not list_quality([planting(1000, range(100), range(96, 106))]).reliable


def test_a_list_without_a_miss_is_not_certain() -> None:
    precision = list_quality([planting(1000, range(100), range(30))]).precision
    assert precision.value == precision.high == 1.0
    assert 0.7 < precision.low < 0.95


def test_a_list_without_a_hit_and_one_without_a_pair() -> None:
    none_hit = list_quality([planting(1000, range(100), range(500, 540))])
    assert none_hit.precision.value == 0.0 and none_hit.precision.high < 0.2 and not none_hit.reliable
    empty = list_quality([planting(1000, range(100), range(0))])
    assert (empty.precision.value, empty.precision.low, empty.precision.high, empty.reliable) == (None, 0.0, 1.0, False)
    assert empty.recall.value == 0.0


def test_what_was_not_planted_rightly_is_refused() -> None:
    with pytest.raises(ValueError, match="at least once"):
        list_quality([])
    with pytest.raises(ValueError, match="among the pairs"):
        list_quality([planting(10, range(5), range(8, 12))])
