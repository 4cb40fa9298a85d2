"""Votes that a line only counts, as a snapshot's files have them, as votes again. Pure.

`votes` of which `votes_chosen` were for the chosen answer; `p_chosen` is its share of them with half of each tie, and
`weight` the mean of 0.5 (slightly), 1 (clearly) and 1.5 (far) over the votes for it.
"""

from collections.abc import Mapping
from typing import Any

from app.services.collecting.imports.records.refusals import BadLine, number_in, shown
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.votes import BOTH_BAD, FIRST, SECOND, TIE, Vote

MOST_VOTES = 100


def votes_of_counts(votes: tuple[Vote, ...], values: Mapping[Role, Any]) -> tuple[Vote, ...]:
    """One vote for each that was counted, by raters who are called by their number. Raises BadLine."""
    total = _count(values.get(Role.VOTES), "votes")
    chosen = _count(values.get(Role.VOTES_CHOSEN, total), "votes_chosen")
    if not 0 < chosen <= total <= MOST_VOTES:
        raise BadLine("bad_field", f"`votes_chosen` is {chosen} and `votes` {total}: they don't go together.")
    strengths = _strengths(values.get(Role.WEIGHT), chosen)
    if total == 1:
        return tuple(
            Vote(vote.choice, strengths[0] or vote.strength, vote.rater, vote.name, vote.note) for vote in votes
        )
    choices = [FIRST] * chosen + _others(values.get(Role.P_CHOSEN), total - chosen, chosen)
    names = [f"Vote {number}" for number in range(1, total + 1)]
    strengths += [None] * (total - chosen)
    return tuple(Vote(*one, name, name) for one, name in zip(zip(choices, strengths, strict=True), names, strict=True))


def _count(value: Any, column: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if type(value) is not int:
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not a whole number.")
    return value


def _number(value: Any, column: str) -> float | None:
    return None if value is None else number_in(value, column)


def _others(share: Any, count: int, chosen: int) -> list[str]:
    """The votes that weren't for the chosen answer: of all mixtures the one whose share is nearest, with as many as can
    be for the other answer. A share of 1 says nothing: the rule made no soft labels."""
    p = _number(share, "p_chosen")
    if p is None or p == 1.0:
        return [SECOND] * count
    mixtures = [(seconds, ties) for seconds in range(count, -1, -1) for ties in range(count - seconds, -1, -1)]
    seconds, ties = min(mixtures, key=lambda of: round(abs(p - (chosen + of[1] / 2) / (chosen + sum(of))), 3))
    return [SECOND] * seconds + [TIE] * ties + [BOTH_BAD] * (count - seconds - ties)


def _strengths(weight: Any, count: int) -> list[int | None]:
    """Strengths whose mean weight is the given one; unsaid where it is 1, or where no strengths have it."""
    given = _number(weight, "weight")
    if given is None or given == 1.0:
        return [None] * count
    halves = round(2 * given * count) - 2 * count  # how many votes are stronger (or weaker, below 0) than "clearly"
    if abs(halves) > count or abs(2 * given * count - 2 * count - halves) > 0.02 * count:
        raise BadLine("bad_field", f"`weight` is {shown(weight)}, which no strengths of {count} votes give.")
    changed: list[int | None] = [3 if halves > 0 else 1]
    return changed * abs(halves) + [2] * (count - abs(halves))
