"""What people see is what is trained on: no two different texts look the same without a word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.web.text.rendered import markdown, same_look
from app.web.text.unseen import SHOWN_LIMIT, written
from tests.web.text.test_markup import Elements


def seen(html: str) -> str:
    return Elements(html).text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"Use C:\_new\*.txt and __init__.py", r"Use C:\_new\*.txt and __init__.py"),
        (r"\\server\share, \# no heading, \- no list", r"\\server\share, \# no heading, \- no list"),
        ("_name_, __all__ and snake_case_name", "_name_, __all__ and snake_case_name"),
        ("&amp; &lt;b&gt; &nbsp;", "&amp; &lt;b&gt; &nbsp;"),
        ("a line\\\nand the next", "a line\\\nand the next"),
        ("<https://x.example>", "<https://x.example>"),
        ("\x1b[31mred\x7f", "␛[31mred␡"),
    ],
)
def test_signs_that_are_part_of_the_text_are_seen(text: str, shown: str) -> None:
    assert seen(markdown(text)).strip() == shown


def test_what_is_marked_up_is_still_formatted() -> None:
    html = markdown("*a* **b** __two words__ _and these_")
    assert html == "<p><em>a</em> <strong>b</strong> <strong>two words</strong> <em>and these</em></p>\n"


def test_a_list_has_the_numbers_that_were_written() -> None:
    html = markdown("1. a\n1. b\n7. c")
    assert [attributes.get("value") for tag, attributes in Elements(html).opened if tag == "li"] == ["1", "1", "7"]


def test_what_stands_beside_a_fence_is_seen() -> None:
    assert seen(markdown('```python title="a"\nx\n```')).startswith('python title="a"')


ALIKE = [
    ("b\nc", "b\r\nc"),
    ("caf\u00e9", "cafe\u0301"),
    ("*two words*", "_two words_"),
    ("**bold text**", "__bold text__"),
    ("- a\n- b", "* a\n* b"),
    ("# Title", "Title\n====="),
    ("[here](https://a.example)", "[here](https://b.example)"),
    ("```\nx\n```", "~~~\nx\n~~~"),
    ("a b", "a\u00a0b"),
    ("a b", "a  b"),
    ("ab", "a\u200bb"),
    ("paypal", "p\u0430yp\u0430l"),
    ("it's", "it\u2019s"),
    (r"\(a+b\)", r"\(a + b\)"),
    ("| a |\n|---|\n| b |", "|a|\n|-|\n|b|"),
]


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_texts_that_look_alike_are_told_apart_as_they_were_written(first: str, second: str) -> None:
    assert same_look(first, second) and same_look(second, first)
    assert seen(written(first, strict=True)) != seen(written(second, strict=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "b"),
        ("a", "A"),
        ("```\nif x:\n  y\n```", "```\nif x:\n    y\n```"),
        ("1. a\n2. b", "1. a\n1. b"),
        (r"\(x\)", "(x)"),
        ("__init__", "**init**"),
        ("a\\_b", "a_b"),
        ("$5", "5"),
        ("```py\nx\n```", "```python\nx\n```"),
        ("same", "same"),
    ],
)
def test_texts_that_differ_to_the_eye_are_formatted(first: str, second: str) -> None:
    assert not same_look(first, second)


def test_marks_of_right_to_left_text_are_kept_and_work_within_their_paragraph() -> None:
    text = "שלום \u202bעולם\u202c (test)"
    assert seen(markdown(text)).strip() == text
    assert "�" not in markdown(text)
    assert "RLE" in written(text) and "\u202b" not in written(text)


def test_marks_that_turn_letters_round_are_named_and_in_code_all_that_reorder() -> None:
    assert seen(markdown("evil\u202etxt.exe")).strip() == "evilRLOtxt.exe"
    assert seen(markdown("```c\nif admin\u202e: \u2066# no\n```")).strip() == "c" + "if adminRLO: LRI# no"


def test_written_text_names_what_nobody_sees() -> None:
    text = "a \t\nb\u200bc\u00a0d\r\n\x00\ud800"
    assert seen(written(text)) == "a·→\nbZWSPcNBSPdCR\nU+0000U+D800"
    assert (
        seen(written("👩\u200d👩 ❤\ufe0f नमस्\u200dते")) == "👩\u200d👩 ❤\ufe0f नमस्\u200dते"
    )  # part of how these are written
    assert seen(written("a\u200db")) == "aZWJb"
    assert "U+0301" in written("cafe\u0301", strict=True) and "U+0301" not in written("cafe\u0301")
    assert "U+0430" in written("p\u0430ypal", strict=True)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_two_texts_are_written_alike(first: str, second: str) -> None:
    if first != second:
        assert written(first, strict=True) != written(second, strict=True)
    assert not Elements(written("<b>" + first)).opened[1:] or "unseen" in written(first)


def test_an_endless_text_is_cut_and_says_by_how_much() -> None:
    assert "1,234 more characters are not shown" in written("x" * (SHOWN_LIMIT + 1234))
