"""Control tokens written out in people's texts: a model would read them as the template's own marks."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer


@lru_cache(maxsize=8)
def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of all tokens that are marks and no text."""
    marked = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(marked | set(tokenizer.all_special_ids))


@lru_cache(maxsize=8)
def _pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    marks = {str(tokenizer.convert_ids_to_tokens(index)) for index in special_ids(tokenizer)}
    longest_first = sorted((mark for mark in marks if mark), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def mark_in(tokenizer: Tokenizer, messages: Sequence[dict], *, may_end: bool = False) -> str | None:
    """The first control token in any text of the messages. may_end: one that ends a text is no mark in it, as EOS after an answer."""
    pattern = _pattern(tokenizer)
    for text in _texts(messages):
        while may_end and (ends := [mark for mark in pattern.finditer(text) if not text[mark.end() :].strip()]):
            text = text[: ends[0].start()]
        if mark := pattern.search(text):
            return mark[0]
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
