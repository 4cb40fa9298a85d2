"""A small fixed part of bench/loop_simulation.py: what was planted is recovered, and nothing where nothing was."""

import numpy as np
import pytest

from bench import loop_simulation as simulation


def figures(rows: list[simulation.Row]) -> dict[str, float]:
    return {row.name: row.value for row in rows}


def fixed() -> np.random.Generator:
    return np.random.default_rng(20240607)


def test_the_sequence_covers_the_truth_in_whole_trajectories_and_is_not_much_wider() -> None:
    rows = figures(simulation.sequence(fixed(), 40, prompts=120))
    covered = [value for name, value in rows.items() if name.startswith("covers")]
    assert len(covered) == 9 and np.mean(covered) >= 0.95 and min(covered) >= 0.9
    assert all(1.4 < value < 1.9 for name, value in rows.items() if name.startswith("width"))


def test_looking_after_every_prompt_makes_no_useless_checkpoint_better() -> None:
    rows = figures(simulation.useless(fixed(), 300, prompts=800))
    ours = [value for name, value in rows.items() if name.startswith("true")]
    assert len(ours) == 3 and max(ours) <= 0.05
    assert rows["… by a fixed-size test that is looked at as often, true 50%"] > 0.1  # what it would cost without


def test_decisions_take_about_as_many_judgments_as_a_fixed_size_test() -> None:
    rows = figures(simulation.decisions(fixed(), 200, maximum=1000))
    for rate, fixed_size in (("60%", 194), ("70%", 47)):
        assert rows[f"prompts of a fixed-size test with 80 % power at a true {rate}"] == fixed_size
        mean = rows[f"mean prompts until decided, at most 1000, at a true {rate}"]
        assert 0.8 * fixed_size < mean < 1.5 * fixed_size
        assert mean < rows[f"mean prompts of the predictable plug-in at a true {rate}"]
    assert rows["decided at all at a true 50%"] <= 0.05
    assert rows["decided at all at a true 60%"] > 0.97


def test_intervals_of_one_look_cover_the_truth() -> None:
    rows = figures(simulation.looks(fixed(), 120))
    assert len(rows) == 16
    assert 0.93 <= np.mean(list(rows.values())) <= 0.97
    assert min(rows.values()) >= 0.89


def test_planted_length_bias_is_seen_through() -> None:
    rows = figures(simulation.length_bias(fixed(), 25))
    assert rows["only longer: the raw verdict says better"] >= 0.95
    assert rows["only longer: at equal length above one half"] <= 0.08
    assert rows["60 % at equal length, 500 prompts: found"] >= 0.75


def test_a_side_clicker_is_named_and_honest_people_are_not() -> None:
    rows = figures(simulation.side_clickers(fixed(), 12))
    assert list(rows.values()) == [1.0, 0.0, 0.0]


def test_signs_of_unblinding_are_seen_where_they_are() -> None:
    rows = figures(simulation.telling(fixed(), 400))
    assert rows["a true guess rate of 70 %: a sign"] >= 0.8
    assert rows["taste alone: a sign"] <= 0.06
    assert rows["people of two tastes who guess by them: a sign"] <= 0.06


def test_the_stated_precision_of_planted_flips_covers_the_truth() -> None:
    rows = figures(simulation.planted_flips(fixed(), 50, pairs=300))
    covered = [value for name, value in rows.items() if name.startswith("the stated interval")]
    assert len(covered) == 6 and min(covered) >= 0.9
    assert rows["a list drawn by lot is called reliable"] == 0.0


def test_a_planted_advantage_of_an_arm_is_found_and_none_is_invented() -> None:
    rows = figures(simulation.arms(fixed(), 150))
    assert rows["an arm that buys 4 points per 100 judgments is found"] >= 0.8
    assert rows["any of four arms that buy nothing is found"] <= 0.05


def test_the_range_of_judgments_to_go_holds_what_comes() -> None:
    rows = figures(simulation.outlook(fixed(), 60))
    assert 0.7 <= rows["the 80 % range of prompts to go holds what comes"] <= 0.97


@pytest.mark.parametrize("name", simulation.PARTS)
def test_a_report_has_a_line_for_each_figure(name: str) -> None:
    row = simulation.Row(name, "a figure", 0.5, 10, "at least 0.4")
    assert f"| {name} | a figure | 0.5 | 10 | at least 0.4 |" in simulation.report([row])
