"""Signs that people could tell which answer was new, from guesses that some make after the batch.

Whoever prefers the new answers and guesses "the one that I liked" is right more often than not, and knows nothing. So a
guess is compared with the guesser's own choice: a follower of taste guesses what they chose with the same frequency whether
that was the new answer or the old. The mean of their accuracy where they chose new and where they chose old is one half,
whatever they like. This is the idea of Bang's blinding index (2004), which looks at each arm of a trial apart, with one's own
choice in the arm's place.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

from app.stats.loop.estimate import Estimate

SIGN = 0.05  # the chance to see a sign where there is nothing to see


@dataclass(frozen=True)
class Guess:
    """One guess on a pair that the person judged with a winner. `chose_new`: the new answer had won; `right`: the guess is right."""

    person: Hashable
    chose_new: bool
    right: bool


@dataclass(frozen=True)
class Unblinding:
    """`accuracy`: the share of right guesses given their own choices, and its one-sided 95 % bounds; 0.5 to who can't tell.

    `p_value`: the chance of so many right guesses by followers of taste. `sign`: it is at most 5 %. A sign is no proof, and no sign
    proves only what `accuracy.high` says: "at most 61 %". `chose_new`, `chose_old`: plain shares of right guesses there.
    accuracy.count: guesses of people who chose either side at least once; nobody else's can be told from taste.
    """

    accuracy: Estimate
    p_value: float
    sign: bool
    guesses: int
    chose_new: float | None
    chose_old: float | None


@dataclass(frozen=True)
class _Stratum:
    """One person's guesses: of `new` pairs where they chose the new answer they guessed their choice in `new_same`, of `old` in
    `old_same`. A guess is right where it names the choice and that was new, or where it doesn't and that was old."""

    new: int
    new_same: int
    old: int
    old_same: int


def unblinding(guesses: Iterable[Guess]) -> Unblinding:
    """Whether guesses tell new from old beyond the guessers' own taste, each person compared with themselves.

    People differ in what they like and in how often they guess by it, which together looks like knowledge when all are thrown into
    one table. So the difference D = P(guesses own choice | it was new) − P(… | it was old) is a Mantel–Haenszel mean over people
    (1959), with Klingenberg's interval (2014, Sato's variance inverted), and accuracy is (1 + D) / 2. The test is Fisher's
    exact one over all people's tables: given how many pairs each chose and guessed which way, the number of right ones is a sum of
    hypergeometric numbers. It counts half of the chance of exactly as many (Lancaster 1961, the mid-p), for with a few guesses each
    the exact one would see a sign of nothing in 2 % of cases instead of 5 %, and miss more that are there.
    """
    guesses = list(guesses)
    strata = [stratum for stratum in _strata(guesses) if stratum.new and stratum.old]
    right_new = [guess.right for guess in guesses if guess.chose_new]
    right_old = [guess.right for guess in guesses if not guess.chose_new]
    p_value = _p_value(strata)
    return Unblinding(
        _accuracy(strata),
        p_value,
        p_value <= SIGN,
        len(guesses),
        sum(right_new) / len(right_new) if right_new else None,
        sum(right_old) / len(right_old) if right_old else None,
    )


def _strata(guesses: Iterable[Guess]) -> list[_Stratum]:
    counts: dict[Hashable, list[int]] = {}
    for guess in guesses:
        of_person = counts.setdefault(guess.person, [0, 0, 0, 0])
        of_person[0 if guess.chose_new else 2] += 1
        of_person[1 if guess.chose_new else 3] += guess.right if guess.chose_new else not guess.right
    return [_Stratum(*of_person) for of_person in counts.values()]


def _accuracy(strata: list[_Stratum]) -> Estimate:
    """Mantel–Haenszel's D and the D that lie within z of it by Sato's variance (D · P + Q) / W², as an accuracy.

    With y of n guesses like one's choice, 1 for new and 2 for old, and N = n₁ + n₂, sums over people of W: n₁n₂/N,
    P: (n₁²y₂ − n₂²y₁ + n₁n₂(n₂ − n₁)/2)/N², Q: (y₁(n₂ − y₂) + y₂(n₁ − y₁))/(2N).
    """
    if not strata:
        return Estimate(None, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(1 - SIGN)
    weight = difference = p = q = 0.0
    for person in strata:
        n1, y1, n2, y2 = person.new, person.new_same, person.old, person.old_same
        total = n1 + n2
        weight += n1 * n2 / total
        difference += (n2 * y1 - n1 * y2) / total
        p += (n1**2 * y2 - n2**2 * y1 + n1 * n2 * (n2 - n1) / 2) / total**2
        q += (y1 * (n2 - y2) + y2 * (n1 - y1)) / (2 * total)
    difference /= weight
    middle = difference + z**2 * p / (2 * weight**2)
    reach = math.sqrt(max(0.0, middle**2 - difference**2 + z**2 * q / weight**2))
    low, high = (min(1.0, max(0.0, (1 + end) / 2)) for end in (middle - reach, middle + reach))
    value = (1 + difference) / 2
    return Estimate(value, min(low, value), max(high, value), sum(person.new + person.old for person in strata))


def _p_value(strata: list[_Stratum]) -> float:
    """P(more right guesses | margins) + ½ · P(as many), where guesses don't depend on which answer is new."""
    import numpy as np
    from scipy.stats import hypergeom

    if not strata:
        return 1.0
    chances, extreme = np.ones(1), 0
    for person in strata:
        same = person.new_same + person.old_same
        least, most = max(0, same - person.old), min(person.new, same)
        chances = np.convolve(
            chances, hypergeom.pmf(np.arange(least, most + 1), person.new + person.old, same, person.new)
        )
        extreme += person.new_same - least
    return min(1.0, float(chances[extreme + 1 :].sum() + chances[extreme] / 2))
