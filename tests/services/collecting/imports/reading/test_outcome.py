"""What became of a batch."""

from app.services.collecting.imports.reading.outcome import Outcome
from app.services.collecting.messages import Unfit


def test_a_line_with_several_pairs_is_rejected_once() -> None:
    outcome = Outcome()
    outcome.reject(1, Unfit("empty_answer", "One."))
    outcome.reject(1, Unfit("empty_answer", "Another."))
    outcome.reject(2, Unfit("empty_answer", "A third."))
    assert [rejection["line"] for rejection in outcome.rejections] == [1, 2]


def test_a_long_difference_is_cut() -> None:
    outcome = Outcome()
    outcome.differ(3, "source", "x" * 500, 9)
    assert (len(outcome.differences[0].stored), outcome.differences[0].given) == (200, "9")
