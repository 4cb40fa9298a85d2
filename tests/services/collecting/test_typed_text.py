"""Text that a person typed is refused with the field that it stands in."""

import pytest

from app.errors import Invalid
from app.services.collecting import typed_text


@pytest.mark.parametrize(
    ("text", "problem"),
    [("x" * 11, "The note is 11 characters long."), ("a\0b", "The note contains a NUL character.")],
    ids=["too long", "nul"],
)
def test_text_that_cannot_be_stored_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(Invalid) as refusal:
        typed_text.check(text, what="note", field="rationale", longest=10)
    assert refusal.value.what == problem
    assert refusal.value.details == {"field": "rationale"}
    assert refusal.value.next_step


def test_text_of_the_greatest_length_is_taken() -> None:
    typed_text.check("ü" * 10, what="note", field="rationale", longest=10)
