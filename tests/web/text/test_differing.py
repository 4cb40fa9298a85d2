"""What two answers share, word by word."""

from app.web.text.differing import MOST_WORDS, Run, differing


def test_what_only_one_says_is_marked() -> None:
    new, old = differing("Press Export now.", "Press the Export button.") or ([], [])
    assert "".join(run.text for run in new) == "Press Export now."
    assert "".join(run.text for run in old) == "Press the Export button."
    assert Run("now", True) in new and Run("button", True) in old
    assert new[0].text.startswith("Press") and not new[0].only


def test_long_answers_stand_as_they_are() -> None:
    assert differing("word " * MOST_WORDS, "word " * MOST_WORDS) is None
    assert differing("", "") == ([], [])


def test_answers_that_share_next_to_nothing_are_not_marked_all_over() -> None:
    assert differing("Open Reports and press Export.", "You can find it within the menu of your account") is None
