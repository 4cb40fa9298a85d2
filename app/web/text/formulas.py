"""LaTeX within Markdown: found by its delimiters, drawn as MathML, or left as it was written.

`\\(…\\)`, `\\[…\\]`, `$$…$$`, and `$…$` where what is between can't be an amount of money or a shell's variable. MathML needs no
script. What latex2mathml makes is written out anew from a list of elements and attributes, each text escaped.
"""

import html
import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.utils import EnvType

# A formula costs about 10 microseconds a character; deep ones cost the stack.
FORMULA_LIMIT = 2_000
FORMULAS_TOTAL = 20_000
FORMULA_START = 50  # what any formula costs, in characters
BRACES_LIMIT = 40
LINES_LIMIT = 60  # of one formula: whoever opens many and closes none keeps nobody busy
CLOSES = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
ATTRIBUTES = {
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "separator", "accent", "movablelimits", "minsize", "maxsize"},
    "mspace": {"width"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "mfrac": {"linethickness"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign", "rowspacing", "columnspacing", "displaystyle", "columnlines", "rowlines"},
    "mtd": {"columnalign"},
    "menclose": {"notation"},
}
ELEMENTS = frozenset(ATTRIBUTES) | {
    *(
        "mrow",
        "mn",
        "mtext",
        "msup",
        "msub",
        "msubsup",
        "munderover",
        "mroot",
        "msqrt",
        "mtr",
        "mmultiscripts",
        "mprescripts",
    ),
    "none",
}
_VALUE = re.compile(r"-?[a-z0-9.]{1,20}( -?[a-z0-9.]{1,20}){0,9}")
_FAR = re.compile(r"\d{2,}(\.\d+)?(em|ex|rem|cm|in|pc)|\d{3,}")
_WORD = re.compile(r"[^\W\d_]{3,}")
_SIGN = re.compile(r"[^\W\d_]|=")  # between dollars: numbers alone are money
_COMMAND = re.compile(r"\\[a-zA-Z]+|[\^_]")
_ENTITY = re.compile(r"&#x([0-9A-Fa-f]{1,6});")
_TEXT = re.compile(r"(\\(?:text[a-z]*|mbox)\s*\{)([^{}]*)\}")
_MARKUP_IN_TEXT = str.maketrans({"<": "\ue000", ">": "\ue001", "&": "\ue002"})
_MARKUP_AGAIN = str.maketrans({"\ue000": "<", "\ue001": ">", "\ue002": "&"})


def install(parser: MarkdownIt) -> None:
    parser.inline.ruler.before("escape", "formula", _inline)
    parser.block.ruler.before("fence", "formula_block", _block, {"alt": ["paragraph", "blockquote", "list"]})


def drawn(tex: str, *, display: bool, env: EnvType) -> str | None:
    """MathML of the formula; None where it can't be drawn whole. `env` is the text's own: it counts what was drawn."""
    total = int(env.get("formulas", 0)) + len(tex) + FORMULA_START
    if len(tex) > FORMULA_LIMIT or total > FORMULAS_TOTAL or _depth(tex) > BRACES_LIMIT:
        return None
    env["formulas"] = total
    from latex2mathml.converter import convert_to_element  # here: few texts have a formula

    quoted = _TEXT.sub(lambda text: text[1] + text[2].translate(_MARKUP_IN_TEXT) + "}", tex)
    root = Element("math", {"display": "block"} if display else {})
    try:
        made = convert_to_element(quoted)
        root.extend(list(made))
        return "".join(_pieces(root))
    except Exception:  # whatever it can't read stays as it was written
        return None


def _pieces(element: Element) -> Iterator[str]:
    """The element as HTML. ValueError for what isn't on the list, or stands for a command that nobody knows."""
    if element.tag not in ELEMENTS:
        raise ValueError(element.tag)
    allowed = ATTRIBUTES.get(element.tag, ())
    for name, value in element.attrib.items():
        if name not in allowed and name not in ("xmlns",):
            raise ValueError(name)
        if not _VALUE.fullmatch(value) or _FAR.search(value):
            raise ValueError(value)
    attributes = "".join(f' {name}="{value}"' for name, value in element.attrib.items() if name != "xmlns")
    yield f"<{element.tag}{attributes}>{_text(element.text)}"
    for child in element:
        yield from _pieces(child)
        yield _text(child.tail)
    yield f"</{element.tag}>"


def _text(text: str | None) -> str:
    plain = _ENTITY.sub(lambda entity: chr(int(entity[1], 16)), text or "").translate(_MARKUP_AGAIN)
    if "\\" in plain:
        raise ValueError(plain)
    return html.escape(plain)


def _depth(tex: str) -> int:
    depth = deepest = 0
    for character in tex:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    return max(deepest, tex.count("\\begin"), tex.count("\\left"))


def _inline(state: StateInline, silent: bool) -> bool:
    src, start = state.src, state.pos
    opener = next((one for one in CLOSES if src.startswith(one, start)), None)
    if opener is None:
        return False
    begin = start + len(opener)
    end = src.find(CLOSES[opener], begin, min(state.posMax, begin + FORMULA_LIMIT + 2))
    if end <= begin or not _is_formula(src[begin:end]):
        return False
    if opener == "$" and not (_SIGN.search(src, begin, end) and _stands_apart(src, begin, end)):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = src[begin:end], opener
    state.pos = end + len(CLOSES[opener])
    return True


def _is_formula(tex: str) -> bool:
    """Whether it is one, not words in brackets: it has commands, or no words."""
    return "`" not in tex and bool(tex.strip()) and bool(_COMMAND.search(tex) or not _WORD.search(tex))


def _stands_apart(src: str, begin: int, end: int) -> bool:
    """Whether two dollars are a formula's: no space at their inside, no letter or digit at their outside."""
    inside = src[begin].isspace() or src[end - 1].isspace() or src[end - 1] == "\\"
    before, after = src[max(0, begin - 2) : begin - 1], src[end + 1 : end + 2]
    return not (inside or before.isalnum() or after.isalnum())


def _block(state: StateBlock, first: int, end_line: int, silent: bool) -> bool:
    """A formula that begins a line and ends one: its lines are no list, heading or paragraphs."""
    if state.is_code_block(first):
        return False
    begin = state.bMarks[first] + state.tShift[first]
    opener = state.src[begin : begin + 2]
    if opener not in ("\\[", "$$") or state.src.find(CLOSES[opener], begin + 2, begin + FORMULA_LIMIT) < 0:
        return False
    for line in range(first, min(end_line, first + LINES_LIMIT)):
        if line > first and state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return False
        at = state.src.find(CLOSES[opener], begin + 2 if line == first else state.bMarks[line], state.eMarks[line])
        if at < 0:
            continue
        if state.src[at + 2 : state.eMarks[line]].strip():
            return False  # text goes on: the inline rule has it
        if not _is_formula(state.src[begin + 2 : at]):
            return False
        if not silent:
            whole = state.getLines(first, line + 1, state.blkIndent, False).strip()
            token = state.push("formula_block", "", 0)
            token.content, token.markup = whole[2:-2], opener
            token.map = [first, line + 1]
            state.line = line + 1
        return True
    return False


def rendered(tokens: Any, idx: int, env: EnvType) -> str:
    token = tokens[idx]
    display = token.type == "formula_block" or token.markup in ("\\[", "$$")
    math = drawn(token.content.strip(), display=display, env=env)
    if math is None:
        source = html.escape(token.markup + token.content + CLOSES[token.markup])
        return (
            f'<div class="tex">{source}</div>\n'
            if token.type == "formula_block"
            else f'<span class="tex">{source}</span>'
        )
    return f'<div class="formula">{math}</div>\n' if token.type == "formula_block" else math
