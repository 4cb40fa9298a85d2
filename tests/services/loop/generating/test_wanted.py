"""Sources as text, and the numbers of sampling."""

import pytest

from app.errors import Invalid
from app.services.loop.generating.wanted import AnswerSource, Sampling


@pytest.mark.parametrize("text", ["base:tiny", "checkpoint:12", "endpoint:ollama"])
def test_a_source_is_written_as_it_is_read(text: str) -> None:
    source = AnswerSource.parse(text)
    assert source.key == text
    assert AnswerSource.of(source.stored()) == source


def test_a_bare_name_is_a_base_model() -> None:
    assert AnswerSource.parse(" tiny ") == AnswerSource.base("tiny")


@pytest.mark.parametrize(
    "text", ["", "base:", "checkpoint:x", "checkpoint:9999999999", "file:/etc/passwd", "endpoint: "]
)
def test_what_names_no_source_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        AnswerSource.parse(text)
    assert refused.value.details["field"] == "sources"


def test_sampling_reads_what_a_form_sends() -> None:
    assert Sampling.of({"temperature": "0.5", "max_new_tokens": "64", "top_p": "", "seed": 3}) == Sampling(
        0.5, 0.95, 64, 3
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "-1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"max_new_tokens": 5000}, "max_new_tokens"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "1e400"}, "seed"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused_by_name(given: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Sampling.of(given)
    assert refused.value.details["field"] == field


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(Invalid, match="top_q"):
        Sampling.of({"top_q": 1})
