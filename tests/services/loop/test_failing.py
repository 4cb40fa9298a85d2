"""What breaks is said, and what nobody foresaw is in the log whole."""

from app.errors import Conflict
from app.services.loop import failing


def test_what_was_foreseen_says_itself() -> None:
    error = Conflict("The run has no checkpoint.", "Train it again.")
    assert failing.told(error, what="Its step") == str(error)


def test_what_nobody_foresaw_is_named_and_cut_and_says_what_to_do() -> None:
    words = failing.told(ValueError("x" * 5000), what="Its comparison", next_step="Ask again.")
    assert words.startswith("Its comparison broke: ValueError: xxx") and words.endswith("x. Ask again.")
    assert len(words) < 600
    assert failing.told(KeyError(), what="Its step") == f"Its step broke: KeyError. {failing.RETRY}"
