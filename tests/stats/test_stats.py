"""Statistics against known values and against their definitions."""

import math
from collections import Counter
from itertools import combinations

import krippendorff
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stats.agreement import agreement
from app.stats.lengths import Lengths, lengths
from app.stats.shares import share


def test_the_wilson_interval_is_the_textbooks() -> None:
    # Newcombe 1998, table I: 81 of 263, method 3.
    interval = share(81, 263)
    assert (interval.low, interval.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert interval.differs_from_half


def test_the_p_value_is_exact() -> None:
    assert share(10, 10).p_value == pytest.approx(2 / 2**10)
    assert share(5, 10).p_value == pytest.approx(1)
    assert not share(8, 10).differs_from_half  # p = 0.109


def test_a_share_of_nothing_is_unknown_and_an_impossible_one_refused() -> None:
    assert (share(0, 0).share, share(0, 0).low, share(0, 0).differs_from_half) == (None, None, False)
    with pytest.raises(ValueError, match="3 of 2"):
        share(3, 2)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    count, total = counts
    interval, other = share(count, total), share(total - count, total)
    assert (
        interval.low is not None and interval.high is not None and interval.share is not None and other.high is not None
    )
    assert (
        0 <= interval.low <= interval.share + 1e-12
        and interval.share <= interval.high + 1e-12
        and interval.high <= 1 + 1e-12
    )
    assert math.isclose(interval.low, 1 - other.high, abs_tol=1e-9)


def test_lengths_are_summed_up() -> None:
    assert lengths([1, 2, 3, 4, 100]) == Lengths(5, 22.0, 3.0, 61.6, 100)
    assert lengths([]) == Lengths(0, 0.0, 0.0, 0.0, 0)


def test_alpha_is_krippendorffs_own_example() -> None:
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: nominal, four observers, missing data; 0.743.
    table = {
        "A": "1 2 3 3 2 1 4 1 2 . . .",
        "B": "1 2 3 3 2 2 4 1 2 5 . 3",
        "C": ". 3 3 3 2 3 4 2 2 5 1 .",
        "D": "1 2 3 3 2 4 4 1 2 5 1 .",
    }
    votes = [
        (unit, rater, value) for rater, line in table.items() for unit, value in enumerate(line.split()) if value != "."
    ]
    assert agreement(votes).alpha == pytest.approx(0.743, abs=1e-3)


def test_agreement_counts_pairs_of_people() -> None:
    result = agreement([(1, "a", "x"), (1, "b", "x"), (1, "c", "y"), (2, "a", "x"), (3, "a", "x"), (3, "b", "y")])
    assert (result.units, result.pairs, result.same) == (2, 4, 0.25)
    assert result.by_rater == {"a": (1, 3), "b": (1, 3), "c": (0, 2)}


def test_agreement_is_unknown_where_nobody_overlaps_or_all_say_the_same() -> None:
    assert agreement([]).alpha is None and agreement([(1, "a", "x"), (2, "b", "y")]).same is None
    same = agreement([(unit, rater, "x") for unit in range(3) for rater in "ab"])
    assert (same.alpha, same.same) == (None, 1.0)


@given(st.dictionaries(st.tuples(st.integers(0, 4), st.sampled_from("abc")), st.sampled_from("xyz"), max_size=15))
def test_agreement_is_what_looking_at_every_pair_gives(table: dict[tuple[int, str], str]) -> None:
    result = agreement([(unit, rater, value) for (unit, rater), value in table.items()])
    pairs = [(table[one], table[other]) for one, other in combinations(table, 2) if one[0] == other[0]]
    assert result.pairs == len(pairs)
    assert result.same == (pytest.approx(sum(one == other for one, other in pairs) / len(pairs)) if pairs else None)
    assert result.alpha is None or result.alpha <= 1


@given(st.dictionaries(st.tuples(st.integers(0, 9), st.sampled_from("abcd")), st.sampled_from("xyz"), max_size=40))
def test_alpha_is_that_of_the_krippendorff_package(table: dict[tuple[int, str], str]) -> None:
    alpha = agreement([(unit, rater, value) for (unit, rater), value in table.items()]).alpha
    units = Counter(unit for unit, _ in table)
    shared = {place: value for place, value in table.items() if units[place[0]] > 1}
    if len(set(shared.values())) < 2:
        assert alpha is None
        return
    counts = [[sum(shared.get((unit, who)) == value for who in "abcd") for value in "xyz"] for unit in range(10)]
    with_votes = [row for row in counts if sum(row)]
    assert alpha == pytest.approx(krippendorff.alpha(value_counts=with_votes, level_of_measurement="nominal"))
