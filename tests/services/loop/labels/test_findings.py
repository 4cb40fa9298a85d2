"""What a label check comes to: its lists, how far they can be trusted, and how well each person is foreseen."""

import json

import pytest

from app.stats.loop.people import shrunken
from app.stats.loop.win_rate import Vote
from tests.services.loop.labels.checked import Checked


def test_the_strongest_contradictions_and_what_planted_flips_say_of_such_a_list(checked: Checked) -> None:
    done = checked.finish(checked.begin())
    result = done.result
    assert result is not None
    assert (result["pairs"], result["contradict"], result["lower"]) == (40, 2, 2), "a twentieth of the pairs"
    assert result["agreement"]["value"] == pytest.approx(35 / 40)
    tenth, fifth = result["precision"]
    assert (tenth["share"], tenth["base_rate"], tenth["precision"]["value"]) == (0.1, 0.1, 1.0)
    assert tenth["precision"]["low"] < 1 and tenth["recall"]["value"] == 0.5
    assert fifth["reliable"] is False, "two pairs can't show three times a fifth"
    stored = {file.name: checked.storage.read_bytes(file.key) for file in done.files}
    rows = [json.loads(line) for line in stored["margins.jsonl"].splitlines()]
    assert [row["comparison_id"] for row in rows] == [line["comparison_id"] for line in checked.lines()]
    assert "line" not in rows[0] and rows[0]["margin"] == 1.0


def test_people_are_foreseen_by_their_own_votes_with_shrinkage(checked: Checked) -> None:
    result = checked.finish(checked.begin()).result
    assert result is not None
    told = {one["user_id"]: one for one in result["people"]}
    ana, ben = (person.id for person in checked.people)
    assert (told[ana]["raw"], told[ben]["raw"]) == (1.0, 0.75)
    votes = [Vote(number, ana if number < 20 else ben, 0.0 if number >= 35 else 1.0) for number in range(40)]
    expected = {one.person: one.win_rate for one in shrunken(votes)}
    for person in (ana, ben):
        assert told[person]["agreement"]["value"] == pytest.approx(expected[person].value)
        assert told[person]["agreement"]["low"] == pytest.approx(expected[person].low)
    assert told[ben]["raw"] < told[ben]["agreement"]["value"] < told[ana]["agreement"]["value"] < told[ana]["raw"]


def test_what_agrees_everywhere_lists_nothing(checked: Checked) -> None:
    result = checked.finish(checked.begin(), margin=lambda line: 0.5).result
    assert result is not None and (result["contradict"], result["lower"]) == (0, 2)
