"""What a list of contradictions is worth, in a sentence that claims no more than its interval."""

from typing import Any

from app.services.loop.labels import words


def told(value: float | None, low: float, high: float, *, reliable: bool) -> str:
    precision: dict[str, Any] = {"value": value, "low": low, "high": high, "count": 40}
    one = {"share": 0.1, "base_rate": 0.1, "precision": precision, "reliable": reliable}
    (trust,) = words.trust({"precision": [one]})
    assert (trust.share, trust.reliable) == (0.1, reliable)
    return trust.sentence


def test_a_list_that_can_be_trusted_says_how_far() -> None:
    assert told(0.62, 0.54, 0.69, reliable=True) == (
        "If 10 % of the labels are wrong, of 100 pairs so flagged about 62 are really flipped (54–69), from flips planted "
        "in this same data."
    )


def test_a_list_below_three_times_the_base_rate_says_so() -> None:
    sentence = told(0.24, 0.12, 0.40, reliable=False)
    assert "not reliable here" in sentence and "(12–40)" in sentence and "3 times the 10 of any 100 pairs" in sentence
    assert "no pair was so flagged" in told(None, 0.0, 1.0, reliable=False)


def test_nothing_asked_is_said() -> None:
    assert words.agreement({"agreement": {"value": None, "low": 0.0, "high": 1.0, "count": 0}}).startswith("No pair")
