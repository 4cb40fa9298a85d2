"""A trial in words."""

from app.models import Arm
from app.services.loop.trials import words


def test_the_interval_stands_with_the_figure() -> None:
    told = words.bought(Arm.MARGIN, {"per": 100, "accuracy": {"value": 2.14, "low": -0.04, "high": 4.3}})
    assert told == (
        "100 judgments of the arm “small margin” bought +2.1 points of accuracy against as many random ones (0.0 to +4.3)."
    )


def test_a_share_is_spoken_for_only_where_chance_is_out() -> None:
    def advice(value: float, differs: bool) -> str:
        return words.advice(Arm.DIVERSITY, {"differs": differs, "accuracy": {"value": value}})

    assert "may be chance" in advice(5.0, False)
    assert "larger share of “diversity”" in advice(5.0, True)
    assert "smaller share" in advice(-5.0, True)
