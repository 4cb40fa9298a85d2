"""A model's answers, and what training changed in them. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

NGRAM = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote. ids: without the end token. ended: by an end token, not by the limit on its length."""

    text: str
    ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class Style:
    """What answers of one model are like: mean length in tokens, how many ended by themselves, mean `repetition`."""

    tokens: float
    ended: int
    repetition: float


def repetition(ids: Sequence[int]) -> float:
    """Share of 4-grams that stood in the text before, from 0 to 1: 1 - |unique 4-grams| / |4-grams|.

    seq-rep-4 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (arXiv:1908.04319).
    A text of fewer than four tokens repeats nothing.
    """
    grams = [tuple(ids[place : place + NGRAM]) for place in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def style(answers: Sequence[Answer]) -> Style:
    """Of at least one answer."""
    count = len(answers)
    return Style(
        tokens=sum(len(answer.ids) for answer in answers) / count,
        ended=sum(answer.ended for answer in answers),
        repetition=sum(repetition(answer.ids) for answer in answers) / count,
    )


def compared(before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
    """What training changed: `prompts`, `changed` (whose greedy answers differ in a token), and the style `before` and
    `after`. The answers stand in the same order of prompts; empty where there are none."""
    if not before:
        return {}
    return {
        "prompts": len(before),
        "changed": sum(old.ids != new.ids for old, new in zip(before, after, strict=True)),
        "before": asdict(style(before)),
        "after": asdict(style(after)),
    }
