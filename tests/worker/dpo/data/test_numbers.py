"""Numbers in columns: as numbers or as text, finite, and else refused by the column's name."""

from typing import Any

import pytest

from worker.dpo.data.records.refusals import BadLine, number_in


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), ("-0.5", -0.5), (2.5, 2.5)])
def test_numbers_and_their_texts_are_read(value: Any, number: float) -> None:
    assert number_in(value, "score") == number


@pytest.mark.parametrize("value", [10**400, "1e400", float("nan"), "inf", True, None, "much", [1], {}])
def test_what_is_no_finite_number_is_refused_by_its_column(value: Any) -> None:
    with pytest.raises(BadLine, match=r"`score` is .*, not a number"):
        number_in(value, "score")
