"""Formatting is done once for a text, for a bounded time on a page, and is kept in bounded memory."""

from collections.abc import Iterator

import pytest
from markupsafe import Markup

from app.web.text import markup, rendered
from app.web.text.rendered import Kept, markdown, one_page


@pytest.fixture
def formatted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that the parser was given, in order."""
    texts: list[str] = []
    to_html = markup.to_html

    def note(text: str) -> Markup:
        texts.append(text)
        return to_html(text)

    monkeypatch.setattr(markup, "to_html", note)
    rendered.kept.clear()
    yield texts
    rendered.kept.clear()


def test_a_text_is_formatted_once_however_often_it_is_shown(formatted: list[str]) -> None:
    assert markdown("*a*") == markdown("*a*") == "<p><em>a</em></p>\n"
    assert markdown("*b*") != markdown("*a*")
    assert formatted == ["*a*", "*b*"]


def test_half_a_character_has_a_place_in_the_cache_too(formatted: list[str]) -> None:
    assert markdown("\ud800") == markdown("\ud800") == "<p>\ufffd</p>\n"
    assert formatted == ["\ud800"]


def test_a_page_whose_time_is_spent_shows_the_rest_as_it_was_written(
    formatted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "PAGE_SECONDS", 0.0)
    with one_page():
        html = markdown("*a <b>*")
    assert formatted == []
    assert "load it again for more" in html and '<div class="plain">*a &lt;b&gt;*</div>' in html
    monkeypatch.undo()
    with one_page():
        assert markdown("*c*") == "<p><em>c</em></p>\n"
        monkeypatch.setattr(rendered, "PAGE_SECONDS", 1e-12)  # what *c* took was more
        assert "as it was written" in markdown("*d*")
        assert markdown("*c*") == "<p><em>c</em></p>\n"  # kept, so it costs nothing
    with one_page():
        assert markdown("*d*") == "<p><em>d</em></p>\n"  # the next page has time again


def test_what_is_kept_stays_within_its_bytes_and_what_is_used_stays() -> None:
    pieces = Kept(limit=10_000)
    for number in range(100):
        pieces.put(bytes([number]), Markup("x" * 1000))
        assert pieces.get(b"\0") is not None
        assert pieces.size <= 10_000
    assert pieces.get(bytes([1])) is None and pieces.get(bytes([99])) is not None
    pieces.put(bytes([99]), Markup("y"))
    assert pieces.get(bytes([99])) == "y"
    pieces.put(b"large", Markup("x" * 20_000))
    assert pieces.get(b"large") is None and pieces.size == 0
