"""Votes that a line only counts come back as votes."""

from collections import Counter

import pytest

from app.services.collecting.imports.reading.counted import votes_of_counts
from app.services.collecting.imports.records.refusals import BadLine
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.votes import Vote
from app.services.datasets.rules import Rule, decide
from app.services.datasets.rules import Vote as Counted

ONE = (Vote("first"),)


def values(votes: object, chosen: object, p: object = None, weight: object = None) -> dict[Role, object]:
    return {Role.VOTES: votes, Role.VOTES_CHOSEN: chosen, Role.P_CHOSEN: p, Role.WEIGHT: weight}


@pytest.mark.parametrize("first", [1, 2, 3, 5])
@pytest.mark.parametrize("others", [(0, 0), (1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("strength", [None, 1, 3])
def test_counts_become_the_votes_of_which_a_snapshot_made_them(
    first: int, others: tuple[int, int], strength: int | None
) -> None:
    second, tie = others
    if first <= max(second, tie):
        return
    rule = Rule(soft_labels=True, weights="strength")
    given = ["first"] * first + ["second"] * second + ["tie"] * tie
    made = decide([Counted(n, choice, strength, False, False) for n, choice in enumerate(given)], rule)  # type: ignore[arg-type]
    votes = votes_of_counts(ONE, values(made.votes, made.votes_chosen, made.p_chosen, made.weight))
    assert Counter(vote.choice for vote in votes) == Counter(given)
    again = decide([Counted(n, vote.choice, vote.strength, False, False) for n, vote in enumerate(votes)], rule)  # type: ignore[arg-type]
    assert again == made
    assert len({vote.rater for vote in votes}) == len(votes)


def test_rounded_shares_are_understood() -> None:
    votes = votes_of_counts(ONE, values(3, 2, 0.67, 0.5))
    assert [(vote.choice, vote.strength) for vote in votes] == [("first", 1), ("first", 1), ("second", None)]
    assert [vote.choice for vote in votes_of_counts(ONE, values(3.0, "2", 1.0))] == ["first", "first", "second"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (values(1, 2), "votes_chosen"),
        (values("many", 1), "votes"),
        (values(3, 2, "half"), "p_chosen"),
        (values(3, 2, None, 7), "weight"),
        (values(10**9, 1), "votes"),
    ],
)
def test_counts_that_cannot_be_are_refused_by_name(given: dict[Role, object], named: str) -> None:
    with pytest.raises(BadLine, match=named):
        votes_of_counts(ONE, given)
