"""From votes to a decision, by a rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.models import Choice
from app.services.datasets.rules import LEFT_OUT, Rule, Vote, decide

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def votes(*choices: Choice, strength: int | None = None) -> list[Vote]:
    return [Vote(number, choice, strength, False, False) for number, choice in enumerate(choices)]


@pytest.mark.parametrize(
    ("choices", "rule", "expected"),
    [
        ([], {}, "not_judged"),
        ([SKIP, SKIP], {}, "skipped"),
        ([FIRST], {}, FIRST),
        ([SECOND, SKIP], {}, SECOND),
        ([TIE], {}, "tie"),
        ([BOTH_BAD], {}, "both_bad"),
        ([FIRST, SECOND], {}, "no_majority"),
        ([FIRST, TIE], {}, "no_majority"),
        ([FIRST, FIRST, SECOND], {}, FIRST),
        ([FIRST, TIE, TIE], {}, "tie"),
        ([FIRST, FIRST, SECOND, SECOND, TIE], {}, "no_majority"),
        ([SECOND, SECOND, FIRST, TIE], {}, SECOND),
        ([FIRST], {"min_judgments": 2}, "too_few_judgments"),
        ([FIRST, SKIP], {"min_judgments": 2}, "too_few_judgments"),
        ([FIRST, FIRST], {"min_judgments": 2}, FIRST),
    ],
)
def test_the_choice_with_most_votes_wins(choices: list[Choice], rule: dict[str, Any], expected: Choice | str) -> None:
    decision = decide(votes(*choices), Rule.of(rule))
    assert (decision.chosen or decision.left_out) == expected
    assert isinstance(expected, Choice) or expected in LEFT_OUT


def test_soft_labels_are_the_share_of_the_votes() -> None:
    soft = Rule(soft_labels=True)
    assert decide(votes(FIRST, FIRST, SECOND), soft).p_chosen == pytest.approx(2 / 3, abs=1e-6)
    assert decide(votes(SECOND, SECOND, TIE), soft).p_chosen == pytest.approx(2.5 / 3, abs=1e-6)
    assert decide(votes(FIRST), soft).p_chosen == 1
    assert decide(votes(FIRST, FIRST, SECOND), Rule()).p_chosen == 1


def test_weights_follow_the_strength_of_the_winning_votes() -> None:
    by_strength = Rule(weights="strength")
    assert [decide(votes(FIRST, strength=strength), by_strength).weight for strength in (None, 1, 2, 3)] == [
        1,
        0.5,
        1,
        1.5,
    ]
    mixed = [Vote(1, FIRST, 3, False, False), Vote(2, FIRST, 1, False, False), Vote(3, SECOND, 3, False, False)]
    assert decide(mixed, by_strength).weight == 1.0
    assert decide(votes(FIRST, strength=3), Rule()).weight == 1


def test_late_and_flagged_votes_follow_the_rule() -> None:
    late, flagged = Vote(1, FIRST, None, True, False), Vote(1, FIRST, None, False, True)
    assert decide([late], Rule()).chosen is FIRST and decide([late], Rule(include_late=False)).left_out == "not_judged"
    assert (
        decide([flagged], Rule()).left_out == "flagged"
        and decide([flagged], Rule(include_flagged=True)).chosen is FIRST
    )


@given(st.lists(st.sampled_from(Choice), max_size=8), st.booleans(), st.randoms())
def test_the_order_of_votes_decides_nothing_and_the_chosen_one_is_likelier(
    choices: list[Choice], soft: bool, random: Any
) -> None:
    rule = Rule(soft_labels=soft)
    decision = decide(votes(*choices), rule)
    shuffled = list(choices)
    random.shuffle(shuffled)
    assert decide(votes(*shuffled), rule) == decision
    if decision.chosen:
        assert 0.5 < decision.p_chosen <= 1 and 1 <= decision.votes_chosen <= decision.votes
        mirrored = {FIRST: SECOND, SECOND: FIRST}
        assert (
            decide(votes(*(mirrored.get(choice, choice) for choice in choices)), rule).chosen
            is mirrored[decision.chosen]
        )


@pytest.mark.parametrize(
    "rule",
    [
        {"min_judgments": 0},
        {"min_judgments": 26},
        {"min_judgments": True},
        {"min_judgments": "2"},
        {"soft_labels": 1},
        {"weights": "votes"},
        {"decision": "majority"},
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Rule.of(rule)
    assert Rule.of(Rule(min_judgments=3).as_dict()) == Rule(min_judgments=3)
