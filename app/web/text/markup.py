"""An answer's Markdown to safe HTML; what is too much to format stands as it was written and says so.

Answers come from models and files, so there are three walls: the parser takes raw HTML for text, the renderer below
makes no image, style or handler, and nh3 lets through only what is listed here. The page's CSP is the fourth.
"""

import html
import re
from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from app.web.text import formulas, unseen

# Beyond these an answer stands as it was written, or is cut. They bound the parser's work, which on hostile input grows
# faster than the text: a cell, a mark and a line each cost a token or more.
MARKDOWN_LIMIT = 60_000
LINE_LIMIT = 10_000
LINES_LIMIT = 5_000
NESTING_LIMIT = 20
MARKS_LIMIT = 10_000
RUN_LIMIT = 500
CELLS_LIMIT = 4_000
# Beyond these code is shown in one colour.
HIGHLIGHT_LIMIT = 10_000
HIGHLIGHT_TOTAL = 20_000
HIGHLIGHT_START = 100  # what the start of a block costs, in characters
CODE_LINE_LIMIT = 1_000
CODE_LINES_LIMIT = 500
_LANGUAGE_NAMES = """
    bash c c# c++ cmake cpp csharp css diff docker dockerfile go graphql html http ini java javascript js json jsx kotlin
    lua nginx perl php powershell py python r ruby rust scala sh shell sql swift toml ts tsx typescript xml yaml yml zsh
"""
LANGUAGES = frozenset(_LANGUAGE_NAMES.split())

LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
MARKS = re.compile(r"[\[\]*_~`<>!()\\&]+")
# The line under a table's head, also within quotes and lists.
DELIMITERS = re.compile(r"[ \t>*+.)\d-]*[|:-][|: \t-]*")
IDENTIFIER = re.compile(r"_+[^\W_](?:\w*[^\W_])?_+(?!\w)")
ESCAPABLE = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
HEADING_SHIFT = 2  # the page has its own h1 and h2

TAGS = {
    "p",
    "br",
    "hr",
    "h3",
    "h4",
    "h5",
    "h6",
    "strong",
    "em",
    "s",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "a",
    "span",
    "div",
    *formulas.ELEMENTS,
}
ATTRIBUTES = {
    "a": {"href", "target"},
    "ol": {"start"},
    "li": {"value"},
    "span": {"class"},
    "code": {"class"},
    "pre": {"tabindex"},
    "th": {"class"},
    "td": {"class"},
    "div": {"class"},
    **formulas.ATTRIBUTES,
}
SCHEMES = {"http", "https", "mailto"}
LINK_REL = "noopener nofollow noreferrer"
CLASS = re.compile(r"(language-)?[\w+#.-]{1,40}")

_formatter = HtmlFormatter(nowrap=True)


def to_html(text: str) -> Markup:
    """Safe HTML of `text`. Never raises; what is too long or too dense to parse is shown as it was written."""
    text = unseen.picture_controls(text)
    if reason := too_much(text):
        return as_written(text, reason)
    tokens = _parser.parse(text)
    if any(token.level >= NESTING_LIMIT for token in tokens):  # the parser leaves out what lies deeper
        return as_written(text, f"it nests more than {NESTING_LIMIT} deep")
    clean = _cleaner.clean(unseen.label_overrides(_parser.renderer.render(tokens, _parser.options, {})))
    return Markup(clean)  # noqa: S704, that is what cleaning was for


def as_written(text: str, reason: str) -> Markup:
    """`text` itself below a line that says why it isn't formatted; an endless one is cut."""
    note = Markup('<p class="cut-note">Shown as it was written: {}.</p>').format(reason)
    return note + unseen.written(text)


def too_much(text: str) -> str:
    """Why `text` would keep the parser busy, or "". Looks at each character a fixed number of times."""
    if len(text) > MARKDOWN_LIMIT:
        return f"it has more than {MARKDOWN_LIMIT:,} characters"
    lines = text.split("\n")
    if len(lines) > LINES_LIMIT:
        return f"it has more than {LINES_LIMIT:,} lines"
    if max(map(len, lines)) > LINE_LIMIT:
        return f"a line has more than {LINE_LIMIT:,} characters"
    runs = [len(run.group()) for run in MARKS.finditer(text)]
    if max(runs, default=0) > RUN_LIMIT:
        return f"more than {RUN_LIMIT} marks stand in a row"
    if sum(runs) > MARKS_LIMIT:
        return f"it has more than {MARKS_LIMIT:,} marks"
    if _cells(lines) > CELLS_LIMIT:
        return f"its tables have more than {CELLS_LIMIT:,} cells"
    return ""


def _cells(lines: list[str]) -> int:
    """At least as many cells as the parser makes: it fills each row up to the width of its table's head."""
    cells = columns = 0
    before = ""
    for line in lines:
        if not line.strip(" \t>"):
            columns = 0
        elif ("|" in line or "|" in before) and DELIMITERS.fullmatch(line):
            columns = max(columns, line.rstrip().removesuffix("|").count("|") + 1)
            cells += columns  # the head
        cells += columns
        before = line
    return cells


def _keep(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "class":
        return " ".join(word for word in value.split() if CLASS.fullmatch(word)) or None
    if attribute == "href":
        return value if LINK.match(value) else None
    if attribute == "target":
        return "_blank"
    return value


# Made once: to read the lists takes longer than to clean an answer.
_cleaner = nh3.Cleaner(tags=TAGS, attributes=ATTRIBUTES, attribute_filter=_keep, url_schemes=SCHEMES, link_rel=LINK_REL)


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An image would call its server when shown: its description and address stand in for it."""
        token = tokens[idx]
        words = self.renderInlineAsText(token.children, options, env) if token.children else ""
        address = str(token.attrGet("src") or "")
        shown = address if len(address) <= 200 else address[:200] + "…"
        return (
            f'<span class="image-text">[image: {html.escape(words) or "no description"} · {html.escape(shown)}]</span>'
        )

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        info = token.info.strip()
        # What stands beside the fence is trained on too.
        head = f'<div class="code-info">{html.escape(info)}</div>' if info else ""
        return head + _code_block(token.content, info.split(maxsplit=1)[0] if info else "", env)

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A number as it was written, not the one that a browser would count to."""
        number = tokens[idx].info
        return f'<li value="{int(number)}">' if number.isascii() and number.isdigit() else "<li>"

    def formula(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return formulas.rendered(tokens, idx, env)

    def formula_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return formulas.rendered(tokens, idx, env)

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _code_block(tokens[idx].content, "", env)

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<{_heading(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"</{_heading(tokens[idx])}>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="table-scroll"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _cell(tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _cell(tokens[idx])

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Only whole addresses lead somewhere: a relative one would be a page of this server."""
        href = str(tokens[idx].attrGet("href") or "")
        bracket = "&lt;" if tokens[idx].markup == "autolink" else ""
        opened = f'<a href="{html.escape(href)}" target="_blank">' if LINK.match(href) else '<span class="dead-link">'
        return bracket + opened

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        bracket = "&gt;" if tokens[idx].markup == "autolink" else ""
        depth = 0
        for token in reversed(tokens[:idx]):
            depth += {"link_close": 1, "link_open": -1}.get(token.type, 0)
            if depth < 0:
                return ("</a>" if LINK.match(str(token.attrGet("href") or "")) else "</span>") + bracket
        return ""


def _heading(token: Token) -> str:
    return f"h{min(6, int(token.tag[1:]) + HEADING_SHIFT)}"


def _cell(token: Token) -> str:
    side = re.search(r"text-align:(\w+)", str(token.attrGet("style") or ""))
    return f'<{token.tag} class="align-{side.group(1)}">' if side else f"<{token.tag}>"


def _code_block(code: str, language: str, env: EnvType) -> str:
    name = language.lower() if re.fullmatch(r"[\w+#.-]{1,40}", language) else ""
    attribute = f' class="language-{name}"' if name else ""
    shown = unseen.label_order(_highlighted(code, name, env))
    return f'<pre tabindex="0"><code{attribute}>{shown}</code></pre>\n'


def _highlighted(code: str, language: str, env: EnvType) -> str:
    """`env` is the text's own: it counts what was highlighted in it."""
    lines = code.split("\n")
    long = len(code) > HIGHLIGHT_LIMIT or len(lines) > CODE_LINES_LIMIT or max(map(len, lines)) > CODE_LINE_LIMIT
    total = int(env.get("highlighted", 0)) + len(code) + HIGHLIGHT_START
    if long or total > HIGHLIGHT_TOTAL or language not in LANGUAGES:
        return html.escape(code)
    env["highlighted"] = total
    return str(highlight(code, get_lexer_by_name(language, stripnl=False, ensurenl=False), _formatter))


def _make_parser() -> MarkdownIt:
    options: dict[str, Any] = {"html": False, "linkify": False, "maxNesting": NESTING_LIMIT + 5, "breaks": True}
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer)
    # What is trained on is seen: no reference definitions, which show nothing, no entities, which show something else.
    parser.enable(["table", "strikethrough"]).disable(["reference", "entity"])
    parser.inline.ruler.at("escape", _escape)
    parser.inline.ruler.before("emphasis", "identifier", _identifier)
    formulas.install(parser)
    return parser


def _escape(state: StateInline, silent: bool) -> bool:
    """A backslash takes a mark's meaning away and is shown itself."""
    pair = state.src[state.pos : state.pos + 2]
    if len(pair) < 2 or pair[0] != "\\" or pair[1] not in ESCAPABLE or state.pos + 2 > state.posMax:
        return False
    if not silent:
        token = state.push("text_special", "", 0)
        token.content = token.markup = pair
        token.info = "escape"
    state.pos += 2
    return True


def _identifier(state: StateInline, silent: bool) -> bool:
    """`__init__` and `_name_` are names, not emphasis."""
    before = state.src[state.pos - 1 : state.pos] if state.pos else ""
    name = None if before == "_" or before.isalnum() else IDENTIFIER.match(state.src, state.pos, state.posMax)
    if name is None:
        return False
    if not silent:
        state.pending += name.group()
    state.pos = name.end()
    return True


_parser = _make_parser()
