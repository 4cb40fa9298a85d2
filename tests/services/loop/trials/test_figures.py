"""From the runs' margins to what an arm bought."""

import random

import pytest

from app.errors import Conflict
from app.models import Arm
from app.services.loop.trials import figures
from app.services.loop.trials.figures import Key, Margins
from app.services.loop.trials.plan import Plan

TWO = Plan.of(["margin", "diversity"])
PROMPTS = [number // 2 for number in range(120)]  # two pairs of each prompt


def margins(right: dict[Arm, float], seed: int = 1) -> dict[Key, Margins]:
    """Runs that are right on these shares of the eval pairs, on the same ones where the shares are equal."""
    drawn = random.Random(seed)
    hard = [drawn.random() for _ in PROMPTS]
    return {
        (place, arm): {
            line + 1: 1.0 if drawn.random() < share - 0.2 * (hard[line] - 0.5) else -1.0 for line in range(len(PROMPTS))
        }
        for place in range(3)
        for arm, share in right.items()
    }


def result(runs: dict[Key, Margins], plan: Plan = TWO) -> dict[str, dict[str, object]]:
    told = figures.result(plan, PROMPTS, runs, dict.fromkeys(runs, 200), pairs=40)
    assert (told["prompts"], told["seeds"], told["pairs"]) == (60, 3, 40)
    return told["arms"]  # type: ignore[no-any-return]


def test_an_arm_that_helped_is_told_from_one_that_did_not() -> None:
    told = result(margins({Arm.RANDOM: 0.8, Arm.MARGIN: 0.4, Arm.DIVERSITY: 0.8}))
    assert told["margin"]["differs"] and not told["diversity"]["differs"]
    accuracy = told["margin"]["accuracy"]
    assert isinstance(accuracy, dict)
    assert 10 < accuracy["value"] < 30, "40 points by 200 judgments are 20 by 100"
    assert accuracy["low"] < 20 < accuracy["high"]
    assert (told["margin"]["judgments"], told["margin"]["per"]) == (200, 100)


def test_of_fewer_than_a_hundred_judgments_nothing_is_said_of_a_hundred() -> None:
    runs = margins({Arm.RANDOM: 0.8, Arm.MARGIN: 0.4, Arm.DIVERSITY: 0.8})
    told = figures.result(TWO, PROMPTS, runs, dict.fromkeys(runs, 12), pairs=12)["arms"]["margin"]
    assert (told["judgments"], told["per"]) == (12, 12)
    assert 20 < told["accuracy"]["value"] < 60


def test_nothing_is_invented_where_arms_buy_the_same() -> None:
    same = [result(margins(dict.fromkeys(TWO.left_out, 0.7), seed)) for seed in range(20)]
    assert sum(one["differs"] for told in same for one in told.values()) <= 2  # type: ignore[misc]


def test_only_pairs_that_every_run_scored_count() -> None:
    runs = margins(dict.fromkeys(TWO.left_out, 0.7))
    some = runs[0, Arm.MARGIN]
    runs[0, Arm.MARGIN] = {line: some[line] for line in some if line > 4}
    told = figures.result(TWO, PROMPTS, runs, dict.fromkeys(runs, 1), pairs=1)
    assert (told["prompts"], told["eval_pairs"]) == (58, 116)
    runs[0, Arm.MARGIN] = {1: 1.0, 2: 1.0}
    with pytest.raises(Conflict, match="scored 1 prompts"):
        figures.result(TWO, PROMPTS, runs, dict.fromkeys(runs, 1), pairs=1)
