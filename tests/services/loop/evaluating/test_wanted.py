"""A plan is checked before anything is drawn."""

from typing import Any

import pytest

from app.errors import Invalid
from app.models import Split
from app.services.loop.evaluating.wanted import Wanted


@pytest.mark.parametrize(
    "wrong", [{"maximum": 0}, {"votes": 6}, {"share": 0}, {"margin": 0.5}, {"prompts": Split.TRAIN}], ids=str
)
def test_a_plan_that_cannot_be_carried_out_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Wanted(**wrong).checked()


def test_the_maximum_is_what_there_are_prompts_for() -> None:
    assert Wanted(maximum=400).plan(120).maximum == 120
    assert Wanted(maximum=400).plan().maximum == 400
    assert Wanted().plan(0).maximum == 1
