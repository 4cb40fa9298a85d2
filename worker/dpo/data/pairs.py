"""What a preference pair is, from a line of a file to token ids.

`Pair` and `Prompt` are text as people wrote it, `TokenPair` is what the model sees, `Problem` says why a line was left out
or changed, and `Dataset` is everything that one file gave.
"""

from dataclasses import dataclass

# The role of messages that stand for a plain string, which no chat template wraps.
PLAIN_TEXT = "text"


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a preference file.

    Messages are dicts with `role` and `content`. A pair of plain strings (no roles, no chat template) is held as
    messages whose role is `PLAIN_TEXT`, one in the prompt and one in each answer.
    """

    line: int
    prompt: list[dict]
    chosen: list[dict]
    rejected: list[dict]
    tools: list | None = None
    weight: float = 1.0
    p_chosen: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to answer: the messages of a line, and the tools that it may call."""

    line: int
    messages: list[dict]
    tools: list | None = None


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Token ids of one pair. A completion ends with its end-of-turn or EOS token, once."""

    line: int
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    weight: float = 1.0
    p_chosen: float = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the line `line` was dropped, or was changed before use. `reason` is a stable code in snake_case."""

    line: int
    reason: str
    message: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable pairs of one file, in file order.

    template: "tokenizer", "chatml (fallback)" or "none (plain text)".
    sha256: hash of all token ids, weights and soft labels, for cache keys and provenance.
    """

    pairs: list[TokenPair]
    problems: list[Problem]
    template: str
    sha256: str


def pair_length(pair: TokenPair) -> int:
    """Tokens of the prompt and the longer completion."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
