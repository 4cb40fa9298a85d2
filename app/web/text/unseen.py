"""A text as it was written: every character, with a label for those that nobody sees."""

import html
import re
import unicodedata
from functools import lru_cache

from markupsafe import Markup

from app.services.collecting.characters import UNSEEN, is_odd, look

SHOWN_LIMIT = 400_000
# Spaces before the end of a line, line ends other than \n, spaces that aren't one, what isn't drawn. Joiners and variation
# selectors are part of emoji and of many scripts, so they count where they follow a letter that has no use for them.
_LABELLED = re.compile(
    r"[ \t]+(?=\r?\n|\Z)|[\r\x0b\x0c\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    rf"|(?<![\u0590-\U0010ffff])[\u200c\u200d\ufe00-\ufe0f]|(?![\u200c\u200d\ufe00-\ufe0f\ud800-\udfff])[{UNSEEN}]|[\ud800-\udfff]"
)
_NAMES = {
    " ": "·",
    "\t": "→",
    "\r": "CR",
    "\xa0": "NBSP",
    "\xad": "SHY",
    "\u200b": "ZWSP",
    "\u200c": "ZWNJ",
    "\u200d": "ZWJ",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2060": "WJ",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
}
# Marks that reorder text. In code all of them get labels, since it would read other than it runs; elsewhere those do that
# turn letters round, and the others do their work within their paragraph.
_REORDER = re.compile("[\u202a-\u202e\u2066-\u2069]")
_OVERRIDE = re.compile("[\u202d\u202e]")
# In lists, which show the beginning of a text: what neither shows nor separates words, marks that reorder, half characters.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_PRE = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)
_NOT_SEEN = re.compile(r' (?:href|class|rel|target|tabindex)="[^"]*"')


def written(text: str, *, strict: bool = False) -> Markup:
    """The text with labels; `strict` also points out what may look like something else. Cut after SHOWN_LIMIT."""
    cut = len(text) - SHOWN_LIMIT
    shown = html.escape(text[:SHOWN_LIMIT], quote=False)
    shown = _LABELLED.sub(lambda run: "".join(map(label, run.group())), shown)
    if strict:
        shown = "".join(_pointed_out(character) if character > "\x7f" else character for character in shown)
    note = f'<p class="cut-note">{cut:,} more characters are not shown.</p>' if cut > 0 else ""
    return Markup(f'<div class="plain">{shown}</div>{note}')  # noqa: S704, escaped


def excerpt(text: str, length: int = 160) -> str:
    """The first `length` characters on one line, for lists."""
    line = " ".join(_UNWANTED.sub("", text[: 4 * length]).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def label(character: str) -> str:
    """HTML that names a character. Half a character has no name and no place on a page."""
    name = _NAMES.get(character) or f"U+{ord(character):04X}"
    return f'<span class="unseen">{name}</span>'


def label_order(code: str) -> str:
    """HTML of code, with labels for marks that reorder it."""
    return _REORDER.sub(lambda mark: label(mark.group()), code)


def label_overrides(shown: str) -> str:
    """HTML of any text, with labels for marks that turn letters round."""
    return _OVERRIDE.sub(lambda mark: label(mark.group()), shown)


def picture_controls(text: str) -> str:
    """The text with Unicode's pictures of control characters in their place."""
    return _CONTROL.sub(lambda control: _picture(ord(control.group())), text)


def same_look(first: str, second: str) -> bool:
    """Whether two pieces of HTML of ours look the same: links lead where nobody sees, and within code spaces count."""
    return _look(first) == _look(second)


def _look(shown: str) -> str:
    parts = _PRE.split(_NOT_SEEN.sub("", shown))
    return "".join(look(html.unescape(part), spaces=not place % 2) for place, part in enumerate(parts)).strip()


def _picture(code: int) -> str:
    if code >= 0xD800:
        return "\ufffd"
    return "\u2421" if code == 0x7F else chr(0x2400 + code)


@lru_cache(4096)
def _pointed_out(character: str) -> str:
    if not is_odd(character):
        return character
    name = unicodedata.name(character, "")
    return f'<span class="unseen" title="{html.escape(name)}">{character} U+{ord(character):04X}</span>'
