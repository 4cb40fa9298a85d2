"""What may give a side away is named by side."""

from app.services.loop.evaluating import tells


def test_nothing_stands_out_in_plain_answers() -> None:
    assert tells.of_pair("Press Export.", "Choose Export.", cut=(False, False)) == {}


def test_names_limits_and_formatting_of_one_side_are_told() -> None:
    told = tells.of_pair("I am SmolLM2.\n\n- one\n- two", "**Plain**", cut=(True, False))
    assert told == {"new": ["names_a_model", "at_limit", "only_lists"], "old": ["only_bold"]}
    assert tells.of_pair("- a", "- b", cut=(False, False)) == {}
    assert tells.of_pair("Ask tiny-1.", "Ask us.", cut=(False, False), names=["tiny-1"]) == {
        "new": ["names_a_model"],
        "old": [],
    }
