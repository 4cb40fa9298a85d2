"""Details of a vote in Prefloop's own form: kept, named, or refused."""

from datetime import UTC, datetime

import pytest

from app.models import Side
from app.services.collecting.imports.reading.details import details_of
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.refusals import BadLine


def test_what_a_judgment_stores_is_kept_and_the_rest_named() -> None:
    reader = Reader()
    given = {"submitted_at": "2026-01-31T12:00:00+02:00", "first_side": "right", "flags": ["unsafe"], "late": True, "guideline_version": 3, "shown_at": None, "mood": "good"}  # fmt: skip
    assert details_of(given, reader) == {
        "submitted_at": datetime(2026, 1, 31, 10, tzinfo=UTC),
        "first_side": Side.RIGHT,
        "flags": ["unsafe"],
        "late": True,
        "guideline_version": 3,
    }
    assert reader.columns() == {"judgments[].mood": {"left_out": 1}}


@pytest.mark.parametrize(
    "given",
    [
        {"submitted_at": "yesterday"},
        {"submitted_at": 5},
        {"shown_at": "0001-01-01T00:00:00+14:00"},
        {"late": "yes"},
        {"flags": "unsafe"},
        {"flags": ["x" * 65]},
        {"first_side": "top"},
        {"first_side": ["left"]},
        {"guideline_version": -1},
        {"guideline_version": 2**31},
    ],
)
def test_a_detail_that_cannot_be_is_refused_by_name(given: dict[str, object]) -> None:
    with pytest.raises(BadLine, match=next(iter(given))):
        details_of(given, Reader())
