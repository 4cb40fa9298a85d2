"""What a round may be asked for."""

from typing import Any

import pytest

from app.errors import Invalid
from app.models import Arm, Split
from app.services.loop.generating.wanted import AnswerSource
from app.services.loop.rounding.plan import RoundPlan
from app.stats.loop.decision import Goal

WHOLE: dict[str, Any] = {
    "base_model": "tiny",
    "sources": ["base:tiny", "checkpoint:3"],
    "samples": 2,
    "sampling": {"temperature": 0.7},
    "limit": 40,
    "arms": {"random": 0.4, "diversity": 0.6},
    "keep": 0.25,
    "judgments": 30,
    "preset": "few",
    "config": {"seed": 3},
    "opponent": "base",
    "evaluation": {"goal": "non_inferiority", "maximum": 50, "prompts": "kept"},
}


def test_a_plan_says_what_each_step_does() -> None:
    plan = RoundPlan.of(WHOLE)
    assert plan.answer_sources() == [AnswerSource.base("tiny"), AnswerSource.checkpoint(3)]
    assert plan.drawing().temperature == 0.7
    assert plan.run_config() == {"num_train_epochs": 3, "batch_size": 8, "learning_rate": 5e-5, "seed": 3}
    chosen = plan.choosing()
    assert (chosen.shares, chosen.keep) == ({Arm.RANDOM: 0.4, Arm.DIVERSITY: 0.6}, 0.25)
    wanted = plan.evaluation_wanted()
    assert (wanted.goal, wanted.maximum, wanted.prompts) == (Goal.NON_INFERIORITY, 50, Split.KEPT)


def test_what_a_row_keeps_is_the_same_plan() -> None:
    plan = RoundPlan.of(WHOLE)
    assert RoundPlan.of(plan.stored()) == plan
    assert RoundPlan.of({"base_model": "tiny"}).sources == ()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"base_model": " "}, "base_model"),
        ({"sources": ["nobody:x"]}, "sources"),
        ({"sources": ["base:tiny", "base:tiny"]}, "sources"),
        ({"samples": 99}, "samples"),
        ({"sampling": {"temperature": 9}}, "temperature"),
        ({"pairing": "by_moon"}, "pairing"),
        ({"prompts_of": "eval"}, "prompts_of"),
        ({"limit": 0}, "limit"),
        ({"arms": {"random": 0.1, "diversity": 0.9}}, "arms"),
        ({"arms": {"random": 0.5}}, "arms"),
        ({"keep": 0.01}, "keep"),
        ({"pairing": "none", "arms": {"random": 0.5, "diversity": 0.5}, "keep": 0.5}, "pairing"),
        ({"sources": []}, "sources"),
        ({"judgments": 0}, "judgments"),
        ({"evaluation": {"goal": "glory"}}, "goal"),
        ({"evaluation": {"maximum": "many"}}, "maximum"),
        ({"evaluation": {"maximum": 0}}, "maximum"),
        ({"evaluation": {"sampling": "hot"}}, "sampling"),
        ({"evaluation": {"sampling": {"temperature": "hot"}}}, "temperature"),
        ({"opponent": "7abc"}, "opponent"),
        ({"opponent": "best"}, "opponent"),
    ],
)
def test_what_can_not_be_carried_out_is_refused_before_anybody_judges(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        RoundPlan.of(WHOLE | wrong)
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("wrong", [{"config": {"beta": -1}}, {"evaluation": {"moon": 1}}, {"moon": 1}])
def test_unknown_and_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        RoundPlan.of(WHOLE | wrong)
