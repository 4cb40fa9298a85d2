"""Texts that nobody sees, and texts that look like others."""

import unicodedata

import pytest

from app.services.collecting.characters import UNSEEN, is_odd, is_seen, look
from app.services.collecting.messages import Unfit, answer_of, prompt_of

BLANK = [
    "\u200b",
    "\u200b\u200d\ufe0f",
    "\u2060\n\u00ad",
    "\u2800",
    "\u3164 \uffa0",
    "\ufeff",
    "\U000e0041\U000e0042",
    "\u202b\u202c",
    "\x1b\x07",
]


@pytest.mark.parametrize("text", BLANK)
def test_an_answer_and_a_prompt_of_unseen_characters_are_refused(text: str) -> None:
    assert not is_seen(text)
    with pytest.raises(Unfit, match=r"The answer has no character that can be seen\.") as refused:
        answer_of(text, "The answer")
    assert refused.value.reason == "empty_answer"
    with pytest.raises(Unfit, match="no character that can be seen") as refused:
        prompt_of([{"role": "system", "content": text}, {"role": "user", "content": text}])
    assert refused.value.reason == "empty_prompt"


@pytest.mark.parametrize("text", ["a", "\u200ba", "❤\ufe0f", "。", "\u0301", "नि", "ﷺ", "\ue000", "-"])
def test_whatever_is_seen_is_an_answer(text: str) -> None:
    assert is_seen(text)
    assert answer_of(text, "The answer") == text


def test_unseen_characters_are_what_unicode_calls_so() -> None:
    hidden = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cf", "Cc")}
    seen = {character for character in hidden if is_seen(character)}
    # Marks before numbers of some scripts and hieroglyphs' controls, which are drawn.
    assert {unicodedata.name(one, "").split()[0] for one in seen} <= {
        "ARABIC",
        "SYRIAC",
        "KAITHI",
        "EGYPTIAN",
    }
    assert all(not is_seen(chr(code)) for code in (0x34F, 0x115F, 0x2800, 0x3164, 0xFE0F, 0xE0100))
    assert UNSEEN.isprintable() is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("b\nc", "b\r\nc"),
        ("caf\u00e9", "cafe\u0301"),
        ("a b", "a\u00a0\u2003b"),
        ("ab", "a\u200bb"),
        ("paypal", "p\u0430yp\u0430l"),
        ("ABC", "\u0391\u0412\u0421"),
        ("file", "\ufb01le"),
        ("12", "\uff11\uff12"),
        ("a-b", "a\u2010b"),
    ],
)
def test_what_looks_alike_has_one_look(first: str, second: str) -> None:
    assert look(first) == look(second)


@pytest.mark.parametrize(
    ("first", "second"), [("a", "A"), ("a", "b"), ("l", "1"), ("é", "e"), ("a b", "ab"), ("я", "R")]
)
def test_what_differs_to_the_eye_has_two(first: str, second: str) -> None:
    assert look(first) != look(second)


def test_spaces_count_where_they_are_seen() -> None:
    assert look("a  b", spaces=False) != look("a b", spaces=False)


@pytest.mark.parametrize(
    ("character", "odd"),
    [("a", False), ("é", False), ("я", False), ("中", False), ("а", True), ("\u0301", True), ("ﬁ", True)],
)
def test_a_character_is_odd_where_it_may_look_like_another(character: str, odd: bool) -> None:
    assert is_odd(character) is odd
