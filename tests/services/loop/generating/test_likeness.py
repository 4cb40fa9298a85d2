"""What counts as the same answer, and what as a name of a model."""

import pytest

from app.services.loop.generating.likeness import Wording, names_a_model

LONG = " ".join(f"word{chr(97 + place % 26)}{chr(97 + place // 26)}" for place in range(80))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("**Yes**, you can.", "yes you can"),
        (LONG, LONG.replace("wordaa", "another")),
        (LONG, LONG + " indeed"),
    ],
)
def test_nearly_the_same(one: str, other: str) -> None:
    assert not Wording(one).is_same(Wording(other))
    assert Wording(one).is_near(Wording(other))
    assert Wording(other).is_near(Wording(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes.", "No."),
        ("a == b", "a != b"),
        (LONG + " 41", LONG + " 42"),
        (LONG, LONG[: len(LONG) // 2]),
        ("", "Something."),
    ],
)
def test_not_nearly_the_same(one: str, other: str) -> None:
    assert not Wording(one).is_near(Wording(other))


@pytest.mark.parametrize(
    "text",
    [
        "I'm Claude, made by Anthropic.",
        "As ChatGPT, I can help.",
        "My name is Gemini.",
        "I was trained by Google on text.",
        "I use gpt-4o for this.",
        "SmolLM2 speaking.",
    ],
)
def test_names_of_models(text: str) -> None:
    assert names_a_model(text)


@pytest.mark.parametrize(
    "text", ["Claude Monet painted it.", "A llama is an animal.", "The Gemini of the zodiac.", "I am here to help."]
)
def test_words_of_every_day(text: str) -> None:
    assert not names_a_model(text)
