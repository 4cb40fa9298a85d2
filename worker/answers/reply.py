"""What a server's answer says: an answer, a refusal of one prompt, a reason to ask again later, or to ask no more."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from worker.answers.told import Failed

LATER = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
BUSY = frozenset({425, 429, 502, 503, 529})  # that is the server's state, whatever it is asked
OF_THIS_PROMPT = frozenset({400, 413, 422})
LONGEST_REASON = 300
FINISHES = {"length": "length", "max_tokens": "length"}
NOT_GIVEN = frozenset({"content_filter", "tool_calls", "function_call"})


class AskLater(Exception):
    """It may answer if it is asked again; `seconds`: not before then, where it says so. `busy`: it would say the same to
    every prompt; else this prompt may be what it can't answer."""

    def __init__(self, why: str, seconds: float | None = None, *, busy: bool = False) -> None:
        super().__init__(why)
        self.why, self.seconds, self.busy = why, seconds, busy


class PromptRefused(Exception):
    """It won't answer this prompt."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the tokens that were counted, None where the server doesn't say."""

    text: str
    finish: str
    tokens: int | None
    prompt_tokens: int | None


def read(status: int, retry_after: str | None, body: bytes, *, url: str, model: str) -> Reply:
    """Raises AskLater, PromptRefused, and Failed for what asking again won't change."""
    if status in LATER:
        raise AskLater(f"it said {status}{_said(body)}", _seconds(retry_after), busy=status in BUSY)
    if status in OF_THIS_PROMPT:
        raise PromptRefused(f"The server said {status}{_said(body)}.")
    if status in (401, 403):
        raise Failed(
            "endpoint_key", f"The server refuses the key ({status}{_said(body)}). Remove the endpoint, add it again."
        )
    if status == 404:
        raise Failed("endpoint_missing", f"{url} isn't there, or has no model “{model}” ({status}{_said(body)}).")
    if 300 <= status < 400:
        raise Failed(
            "endpoint_redirects",
            f"{url} leads elsewhere ({status}), and Prefloop doesn't follow. Add the place itself.",
        )
    if status != 200:
        raise Failed("endpoint_failed", f"The server said {status}{_said(body)}.")
    return _answer(body)


def _answer(body: bytes) -> Reply:
    try:
        told = json.loads(body)
        choice = told["choices"][0]
        text, finish = choice["message"]["content"], str(choice.get("finish_reason") or "stop")
        usage = told.get("usage") or {}
        if not isinstance(text, str | None) or not isinstance(usage, dict):
            raise TypeError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise AskLater("its answer can't be read") from None
    if text is None or finish in NOT_GIVEN:
        raise PromptRefused(f"The server gave no text ({finish}).")
    return Reply(text, FINISHES.get(finish, "stop"), _count(usage, "completion_tokens"), _count(usage, "prompt_tokens"))


def _count(usage: dict[str, Any], name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**31 else None


def _said(body: bytes) -> str:
    """The server's own words, in a bounded line of plain characters."""
    try:
        told = json.loads(body)
        error = told.get("error", told)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        text = body.decode("utf-8", "replace")
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)[:2000]).split())
    return f": {plain[:LONGEST_REASON].rstrip('.')}" if plain else ""


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After is a number of seconds or a date."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
