"""Answers are written by models and strangers: what they can do on a page, and what a reader sees of them."""

from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name

from app.web.text import markup
from app.web.text.markup import (
    ATTRIBUTES,
    CELLS_LIMIT,
    CODE_LINE_LIMIT,
    HIGHLIGHT_TOTAL,
    LANGUAGES,
    LINES_LIMIT,
    MARKDOWN_LIMIT,
    MARKS_LIMIT,
    TAGS,
)
from app.web.text.markup import to_html as markdown
from app.web.text.unseen import SHOWN_LIMIT, excerpt


class Elements(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(html))  # Markup escapes what is added to it
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(html: str) -> None:
    for tag, attributes in Elements(html).opened:
        assert tag in TAGS, tag
        allowed = ATTRIBUTES.get(tag, set()) | ({"rel"} if tag == "a" else set())
        assert set(attributes) <= allowed, (tag, attributes)
        if "href" in attributes:
            assert attributes["href"].lower().startswith(("http://", "https://", "mailto:")), attributes  # type: ignore[union-attr]
            assert attributes["rel"] == "noopener nofollow noreferrer"


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<style>body{display:none}</style>",
    "<p style='position:fixed;inset:0'>x</p>",
    "<form action=/sign-out method=post><button>Next</button></form>",
    "<input autofocus onfocus=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<div hx-get='/people' hx-trigger='load'></div>",
    "<button popovertarget='guidelines'>x</button>",
    "<base href='https://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<template><script>alert(1)</script></template>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<!--><script>alert(1)</script-->",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A&#x61&#x76&#x61&#x73&#x63&#x72&#x69&#x70&#x74&#x3A;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    '[x](https://ok.example"onmouseover=alert(1))',
    '[x](<https://ok.example" onclick="alert(1)>)',
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:alert(1))",
    '![<img src=x onerror=alert(1)>](https://evil.example/a.png "onload=alert(1)")',
    "```html\n<script>alert(1)</script>\n```",
    "```<script>alert(1)</script>\ncode\n```",
    '```"onclick="alert(1)\ncode\n```',
    "`<script>alert(1)</script>`",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    "# <script>alert(1)</script>",
    "[a]: javascript:alert(1)\n\n[a]",
    "<sc\x00ript>alert(1)</sc\x00ript>",
    "\u202e<script>alert(1)</script>",
    "$\\text{<script>alert(1)</script>}$",
    "\\(\\href{javascript:alert(1)}{x}\\)",
    "\\[\\style{position:fixed}{x}\\class{flash}{y}\\]",
    "$$\\unicode{x3c}script\\unicode{x3e}$$",
    '$x" onclick="alert(1)^2$',
    "```<script>alert(1)</script> onclick\ncode\n```",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_in_an_answer_runs_loads_or_looks_like_the_page(text: str) -> None:
    assert_harmless(markdown(text))


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<b>bold</b>", "<!-- hidden -->", "<div hidden>secret</div>"]
)
def test_raw_html_is_shown_as_it_was_written(text: str) -> None:
    assert Elements(markdown(text)).text.strip() == text


PIECES = st.sampled_from(
    [*ATTACKS, "\n", "\n\n", "> ", "- ", "1. ", "```", "|", "**", "_", "[", "](", ")", "![", "`", "\\", "<", "&", "  "]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=25).map("".join)))
@example("\ud800")
def test_no_text_at_all_makes_anything_but_the_listed_elements(text: str) -> None:
    assert_harmless(markdown(text))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), min_size=1, max_size=30))
def test_every_word_of_plain_prose_is_seen(words: list[str]) -> None:
    assert Elements(markdown(" ".join(words))).text.split() == words


def test_an_image_is_named_and_its_address_told_but_not_loaded() -> None:
    html = markdown("![a *red* chart](https://evil.example/pixel.png?who=me)")
    assert "<img" not in html
    assert "a red chart" in html and "https://evil.example/pixel.png?who=me" in html


def test_a_link_opens_elsewhere_and_tells_the_other_site_nothing() -> None:
    ((_, link),) = [
        element for element in Elements(markdown("[x](https://docs.example/a?b=1&c=2)")).opened if element[0] == "a"
    ]
    assert link == {"href": "https://docs.example/a?b=1&c=2", "target": "_blank", "rel": "noopener nofollow noreferrer"}


def test_a_relative_link_leads_nowhere_since_it_would_be_a_page_of_this_server() -> None:
    html = markdown("[click](/sign-out) and [this](//evil.example)")
    assert "<a" not in html and "click" in html and "this" in html


def test_links_inside_links_and_emphasis_close_what_they_open() -> None:
    html = markdown("[**a** [b](/x) c](https://d.example) [e](/f)")
    assert html.count("<a ") == html.count("</a>") and html.count("<span") == html.count("</span>")


def test_code_is_highlighted_by_classes_alone() -> None:
    html = markdown("```python\ndef f():\n    return 'x'\n```")
    assert '<code class="language-python"><span class="k">def</span>' in html
    assert "style=" not in html


def test_code_keeps_every_character_and_its_indentation() -> None:
    code = "\n\tif a < b && c:\n    pass  \n\n"
    for language in ("", "python", "nonesuch"):
        shown = Elements(markdown(f"````{language}\n{code}````")).text
        assert shown.removeprefix(language).removesuffix("\n") == code


def test_every_language_offered_has_a_lexer() -> None:
    for name in LANGUAGES:
        get_lexer_by_name(name)


def test_tables_lists_and_line_breaks_come_through() -> None:
    html = markdown("a\nb\n\n| x | y |\n|--:|---|\n| 1 | 2 |\n\n3. three\n\n~~gone~~ **bold**")
    for part in (
        "a<br>",
        '<th class="align-right">x</th>',
        "<td>2</td>",
        '<ol start="3">',
        '<li value="3">',
        "<s>gone</s>",
        "<strong>bold</strong>",
    ):
        assert part in html


def test_headings_stay_below_the_page_s_own() -> None:
    html = markdown("# one\n\n###### six")
    assert "<h3>one</h3>" in html and "<h6>six</h6>" in html


def test_what_defines_links_without_showing_is_shown() -> None:
    assert "hidden instruction" in Elements(markdown("[//]: # (hidden instruction)")).text


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser isn't entered."""

    def parse(text: str) -> None:
        raise AssertionError(f"parsed {text[:40]!r}")

    monkeypatch.setattr(markup._parser, "parse", parse)


def assert_as_written(html: str, text: str, reason: str) -> None:
    note, separator, rest = str(html).partition('</p><div class="plain">')
    assert separator and note.startswith('<p class="cut-note">Shown as it was written: ')
    assert reason in note
    assert Elements('<div class="plain">' + rest).text.replace("·", " ") == text  # spaces that end a line are named


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("word " * (MARKDOWN_LIMIT // 5 + 1), "characters"),
        ("_" * 100_000, "characters"),
        ("[" * 2000, "in a row"),
        ("**" * 2000, "in a row"),
        (">" * 501 + " deep", "in a row"),
        ("a" * 30_000, "a line"),
        ("x\n" * (LINES_LIMIT + 1), "lines"),
        ("[a](" * (MARKS_LIMIT // 3), "a line"),
        ("[a](\n" * (MARKS_LIMIT // 3 + 1), "marks"),
        ("[ " * 4900 + "\n" + "[ " * 4900 + "\n" + "] " * 4900, "marks"),
        (("[" * 400 + " ") * 20 + "\n" + ("]" * 400 + " ") * 20, "marks"),
        (("*a **b _c " * 900 + "\n") * 5, "marks"),
        ("\n".join("`" * n for n in range(1, 330)), "marks"),
        (("<a:b> " * 900 + "\n") * 10, "marks"),
        (("&amp; \\* " * 900 + "\n") * 7, "marks"),
        ("| a | b |\n|---|---|\n" + "| x | y |\n" * (CELLS_LIMIT // 2), "cells"),
        ("|a" * 300 + "|\n" + "|-" * 300 + "|\n" + "x\n" * 20, "cells"),
        ("> " + "|a" * 300 + "|\n> " + "|-" * 300 + "|\n" + "> x\n" * 20, "cells"),
        ("- " + "|a" * 300 + "|\n  " + ":-:|" * 300 + "\n" + "  x\n" * 20, "cells"),
        ("|a|b|\n|-|-|\n|1|2|\n\n" * 1000, "cells"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_would_keep_the_parser_busy_never_reaches_it_and_says_why(text: str, reason: str) -> None:
    assert_as_written(markdown(text), text, reason)


def test_what_nests_too_deep_is_shown_as_it_was_written() -> None:
    text = "\n".join("  " * level + "- item" for level in range(60))
    assert_as_written(markdown(text), text, "deep")


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n|---|---|\n" + "| x | y |\n" * 900,
        "---\n" * 4000,
        "- item\n" * 4000,
        "Some words that *mean* a thing, with `code` and [a link](https://x.example).\n\n" * 700,
        "```python\n" + "value = call(first, [second], *rest)\n" * 1000 + "```\n",
    ],
    ids=lambda value: repr(value)[:40],
)
def test_long_ordinary_texts_are_formatted(text: str) -> None:
    assert "cut-note" not in markdown(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["|", "-", ":", "a", " ", "\n", "\n\n", "> ", "- ", "|-|-|\n", "|a|b|\n"]), max_size=60)
)
def test_cells_are_never_counted_too_low(pieces: list[str]) -> None:
    text = "".join(pieces)
    made = sum(token.type in ("th_open", "td_open") for token in markup._parser.parse(text))
    assert markup._cells(text.split("\n")) >= made


def test_code_in_colour_ends_where_a_text_has_had_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured: list[str] = []
    monkeypatch.setattr(markup, "highlight", lambda code, *_: coloured.append(code) or "")
    markdown("```python\nx = 1\n```\n" * 1500)
    assert 0 < len(coloured) <= HIGHLIGHT_TOTAL // 100


def test_an_endless_answer_is_cut_and_says_by_how_much() -> None:
    text = "x" * (SHOWN_LIMIT + 1234)
    html = markdown(text)
    assert len(html) < SHOWN_LIMIT + 500 and "1,234 more characters are not shown" in html


@pytest.mark.parametrize("code", ["a" * (CODE_LINE_LIMIT + 1), "\n" * 8000, "x = 1\n" * 2000])
def test_code_that_would_keep_a_highlighter_busy_is_shown_plain(code: str) -> None:
    assert "<span" not in markdown(f"```c\n{code}\n```")


def test_marks_that_reorder_text_are_made_visible() -> None:
    assert "\u202e" not in markdown("```python\nif admin\u202e: \u2066# no\n```")


def test_an_excerpt_is_one_line_of_limited_length() -> None:
    assert excerpt("a\n  b\tc") == "a b c"
    assert excerpt("word " * 100, 20) == "word word word word…"
