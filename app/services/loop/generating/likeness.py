"""What must be known of an answer before it is judged: that it is the same as another, or that it gives its maker away."""

import re
from collections.abc import Iterable
from enum import StrEnum

NEAR = 0.9
SHINGLE = 3
TOKEN = re.compile(r"\w+|[^\w\s]")
NUMBER = re.compile(r"\d+")
PUNCTUATION = frozenset(".,;:!?*_\"'`“”‘’-–—()#>~…")
# Names that mean nothing else; the rest are words of every day, which count where somebody introduces themselves by one.
NAMES = re.compile(
    r"\b(?:chat ?gpt|gpt-?[2345][\w.]*|openai|anthropic|deepseek[\w.-]*|qwen[\w.-]*|smollm[\w.-]*|mixtral|hugging ?face|"
    r"llama[ -]?[1234][\w.]*|vicuna|palm ?2|copilot)\b",
    re.IGNORECASE,
)
INTRODUCED = re.compile(
    r"(?:\bI(?:['’]m| am)|\b[Mm]y name is|\b(?:[Mm]ade|[Cc]reated|[Tt]rained|[Dd]eveloped|[Bb]uilt) by)\b[^.!?\n]{0,40}?"
    r"\b(?:Claude|Gemini|Bard|Llama|Mistral|Phi|Falcon|Gemma|Grok|Bing|Google|Meta|Microsoft|Alibaba|xAI)\b"
)
SHORTEST_NAME = 4


class Mark(StrEnum):
    """What a reader of an answer should know."""

    IDENTICAL = "identical"  # to an earlier one of the same prompt, but for white space
    NEAR_IDENTICAL = "near_identical"
    NAMES_A_MODEL = "names_a_model"
    AT_LIMIT = "at_limit"
    EMPTY = "empty"


class Wording:
    """An answer's words, ready to be compared."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self._tokens = TOKEN.findall(self.text.casefold())
        self._words = [token for token in self._tokens if token not in PUNCTUATION]
        self._numbers = NUMBER.findall(text)
        self._shingles = frozenset(zip(*(self._tokens[at:] for at in range(SHINGLE)), strict=False))

    def is_same(self, other: "Wording") -> bool:
        return self.text == other.text

    def is_near(self, other: "Wording") -> bool:
        """Whether they differ in case and punctuation only, or nine in ten of their groups of three words are common to both.

        Answers that differ in a number are never near: it may be all that matters.
        """
        if self._numbers != other._numbers:
            return False
        if self._words == other._words:
            return True
        either = len(self._shingles | other._shingles)
        return either > 0 and len(self._shingles & other._shingles) >= NEAR * either


def names_a_model(text: str, names: Iterable[str] = ()) -> bool:
    """Whether an answer names a model or its maker. names: those of the sources, which count too."""
    if NAMES.search(text) or INTRODUCED.search(text):
        return True
    folded = text.casefold()
    return any(len(name) >= SHORTEST_NAME and name.casefold() in folded for name in names)
