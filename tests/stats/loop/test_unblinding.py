"""Guesses of who follows taste, who knows, and who tosses a coin."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import hypergeom

from app.stats.loop.unblinding import Guess, unblinding


def guesses(person: str, new_right: int, new_wrong: int, old_right: int, old_wrong: int) -> list[Guess]:
    return (
        [Guess(person, True, True)] * new_right
        + [Guess(person, True, False)] * new_wrong
        + [Guess(person, False, True)] * old_right
        + [Guess(person, False, False)] * old_wrong
    )


def test_who_guesses_what_they_liked_knows_nothing() -> None:
    # 70 % of plain guesses are right, for they like the new answers in 70 % of pairs.
    result = unblinding(guesses("a", 42, 0, 0, 18))
    assert (result.accuracy.value, result.sign, result.guesses) == (0.5, False, 60)
    assert (result.chose_new, result.chose_old) == (1.0, 0.0)


def test_who_is_right_whatever_they_liked_can_tell() -> None:
    result = unblinding(guesses("a", 30, 12, 13, 5))
    assert result.accuracy.value == pytest.approx((30 / 42 + 13 / 18) / 2)
    assert result.sign and result.p_value < 0.01 and result.accuracy.low > 0.5


def test_no_sign_still_says_how_much_may_be_there() -> None:
    result = unblinding(guesses("a", 15, 15, 15, 15))
    assert (result.accuracy.value, result.sign) == (0.5, False)
    assert 0.58 < result.accuracy.high < 0.63


def test_one_persons_test_is_fishers_mid_p() -> None:
    # 11 of 20 new and 5 of 17 old were guessed as the own choice.
    result = unblinding(guesses("a", 11, 9, 12, 5))
    law = hypergeom(37, 16, 20)
    assert result.p_value == pytest.approx(law.sf(11) + law.pmf(11) / 2)


def test_two_peoples_test_goes_through_both_tables() -> None:
    result = unblinding(guesses("a", 5, 3, 4, 2) + guesses("b", 2, 4, 6, 1))
    a, b = hypergeom(14, 7, 8), hypergeom(13, 3, 6)
    chances = dict.fromkeys(range(30), 0.0)
    for i in range(9):
        for j in range(7):
            chances[i + j] += a.pmf(i) * b.pmf(j)
    by_hand = sum(chance for same, chance in chances.items() if same > 7) + chances[7] / 2
    assert result.p_value == pytest.approx(by_hand)


def test_the_bounds_are_where_satos_variance_puts_them() -> None:
    tables = [(8, 5, 6, 2), (6, 2, 7, 1)]  # pairs new and guessed as chosen, pairs old and guessed as chosen
    result = unblinding(guesses("a", 5, 3, 4, 2) + guesses("b", 2, 4, 6, 1))
    weight = sum(n1 * n2 / (n1 + n2) for n1, _, n2, _ in tables)
    difference = sum((n2 * y1 - n1 * y2) / (n1 + n2) for n1, y1, n2, y2 in tables) / weight

    def distance(d: float) -> float:
        p = sum((n1**2 * y2 - n2**2 * y1 + n1 * n2 * (n2 - n1) / 2) / (n1 + n2) ** 2 for n1, y1, n2, y2 in tables)
        q = sum((y1 * (n2 - y2) + y2 * (n1 - y1)) / (2 * (n1 + n2)) for n1, y1, n2, y2 in tables)
        return (difference - d) ** 2 - 1.6448536**2 * (d * p + q) / weight**2

    assert result.accuracy.low == pytest.approx((1 + brentq(distance, -1, difference)) / 2, abs=1e-6)
    assert result.accuracy.high == pytest.approx((1 + brentq(distance, difference, 1)) / 2, abs=1e-6)


def test_people_of_two_tastes_look_as_if_they_knew_only_in_one_table() -> None:
    # Who likes new guesses by taste, who likes old guesses against it; each of them has no idea.
    fan, sceptic = guesses("fan", 38, 2, 1, 19), guesses("sceptic", 4, 16, 32, 8)
    together = [Guess("one", guess.chose_new, guess.right) for guess in fan + sceptic]
    assert unblinding(together).sign
    apart = unblinding(fan + sceptic)
    assert not apart.sign and apart.accuracy.value == pytest.approx(0.5, abs=0.02)


def test_who_chose_one_side_only_cannot_be_told_from_taste() -> None:
    result = unblinding(guesses("a", 30, 0, 0, 0))
    assert (result.accuracy.value, result.accuracy.low, result.accuracy.high) == (None, 0.0, 1.0)
    assert (result.sign, result.guesses, result.accuracy.count) == (False, 30, 0)
    nobody = unblinding([])
    assert (nobody.accuracy.value, nobody.sign, nobody.p_value, nobody.chose_new) == (None, False, 1.0, None)


def test_bounds_stay_within_0_and_1() -> None:
    result = unblinding(guesses("a", 9, 0, 9, 0))
    assert result.accuracy.value == 1.0 and result.accuracy.high == 1.0
    assert 0.7 < result.accuracy.low < 1.0
    assert not math.isnan(result.p_value)
