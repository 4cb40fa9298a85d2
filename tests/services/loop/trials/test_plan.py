"""Which pairs each run of a trial leaves out, and what can't be compared."""

from dataclasses import replace

import pytest
from scipy.stats import binomtest

from app.errors import Invalid
from app.models import Agreed, Arm, Sides, Statistics
from app.services.loop.trials.plan import Plan, points, seed_of
from app.stats.lengths import lengths
from app.stats.shares import share

NONE = lengths([])
STATISTICS = Statistics(
    prompts=0, characters=Sides(NONE, NONE), words=Sides(NONE, NONE), chosen_longer=share(0, 0), left_picked=share(0, 0),
    repeated_chosen=0, sources=[], mean_weight=None, mean_p_chosen=None, evaluators=[], imported=0, agreement=Agreed(0, None, None),
    arms={"random": 40, "margin": 25, "diversity": 12}, random_eval=20,
)  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "seeds", "words"),
    [
        ([], 3, "No arm was named"),
        (["random"], 3, "“random” is no arm to be compared with random"),
        (["luck"], 3, "“luck” is no arm"),
        (["margin"], 2, "2 seeds were wanted"),
        (["margin"], 21, "Choose 3 to 20"),
    ],
)
def test_what_makes_no_plan_is_refused(arms: list[str], seeds: int, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Plan.of(arms, seeds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {}}, "holds no pairs that an arm asked"),
        ({"arms": {"random": 40, "margin": 9}}, "trained on 9 pairs of the arm “small margin”"),
        ({"arms": {"margin": 40}}, "trained on 0 pairs of the arm “random”"),
        ({"random_eval": 9}, "has 9 eval pairs of the random arm"),
    ],
)
def test_too_little_to_compare_is_said(change: dict[str, object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Plan.of(["margin"]).check_for(replace(STATISTICS, **change), 100)  # type: ignore[arg-type]


def test_every_run_leaves_out_as_many_as_the_smallest_arm_has() -> None:
    plan = Plan.of(["diversity", "margin", "margin"])
    plan.check_for(STATISTICS, 77)
    assert plan.left_out == (Arm.RANDOM, Arm.MARGIN, Arm.DIVERSITY)
    assert (plan.swapped(STATISTICS.arms), plan.runs) == (12, 9)
    assert Plan.stored_as(plan.stored()) == plan


def test_what_is_left_out_is_drawn_anew_for_each_seed() -> None:
    plan = Plan.of(["margin"], 20)
    drawn = [plan.choose(range(40), count=10, seed=seed, arm=Arm.RANDOM) for seed in range(20)]
    assert all(len(one) == 10 and one <= set(range(40)) for one in drawn)
    assert len(set(drawn)) == 20
    assert drawn[3] == plan.choose(reversed(range(40)), count=10, seed=3, arm=Arm.RANDOM)
    assert binomtest(sum(len(one & set(range(20))) for one in drawn), 200, 0.5).pvalue > 0.001


def test_seeds_are_others_than_the_runs_own() -> None:
    assert [seed_of({"seed": 7}, place) for place in range(3)] == [8, 9, 10]
    assert seed_of({}, 0) == 1
    assert seed_of({"seed": 2**31 - 1}, 0) == 0


def test_points_are_the_share_that_is_right() -> None:
    assert points([1.0, -1.0, 0.0, 2.0]) == 62.5
