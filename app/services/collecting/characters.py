"""Characters that nobody sees, and characters that look like others."""

import re
import unicodedata

# Beside white space: control and format characters, fillers, variation selectors. Ranges of a regular expression's set.
UNSEEN = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SEEN = re.compile(f"[^\\s{UNSEEN}]")
_HIDDEN = re.compile(f"[{UNSEEN}]")
_SPACE = re.compile(r"\s+")
# Letters of other scripts that common fonts draw like Latin ones.
_LIKE_LATIN = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеорсухіјѕһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανԚԜ‐‑‒–−’‘“”",
    "ABESIJKMHOPCTYXaeopcyxijshdqwABEZHIKMNOPTYXoavQW-----''\"\"",
)


def is_seen(text: str) -> bool:
    """Whether a reader sees anything of the text."""
    return _SEEN.search(text) is not None


def look(text: str, *, spaces: bool = True) -> str:
    """Texts that look the same have the same look; `spaces`: however many, they are one."""
    shown = unicodedata.normalize("NFKC", _HIDDEN.sub("", text)).translate(_LIKE_LATIN)
    return _SPACE.sub(" ", shown) if spaces else shown


def is_odd(character: str) -> bool:
    """Whether a character, which is seen, may look like another or like none: an accent of its own, a letter that is drawn
    like a Latin one, a wide or joined form."""
    return unicodedata.combining(character) > 0 or look(character) != character
