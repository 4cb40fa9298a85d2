"""The forms of a line in a preference file: from its bytes to a `Pair` or a prompt.

A line is one JSON object, in one of these forms:

- explicit prompt: `prompt`, `chosen`, `rejected`, each a string or a list of messages;
- implicit prompt: `chosen` and `rejected` only, which begin alike;
- Anthropic HH: `chosen` and `rejected` as transcripts, `\\n\\nHuman: …\\n\\nAssistant: …`;
- and beside them `tools`, `weight` (0 or more) and `p_chosen` (0 to 1). Other columns are ignored.
"""

import json
import math
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from worker.dpo.data.pairs import PLAIN_TEXT, Pair, Prompt

TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")
ROLES = {"Human": "user", "Assistant": "assistant"}
ANSWER_ROLES = {"assistant", "tool", PLAIN_TEXT}


class BadLine(ValueError):
    """A line that can't be a pair. `reason` is a stable code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_row(raw: bytes) -> dict[str, Any] | None:
    """A line's JSON object, or None for a blank line. Raises BadLine."""
    try:
        text = raw.decode("utf-8-sig").strip()
        if not text:
            return None
        row = json.loads(text)
        # Lone surrogates pass JSON but aren't text: tokenizers fail on them.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise BadLine("bad_encoding", f"The line is not valid UTF-8 text: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadLine("bad_json", f"The line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadLine("not_an_object", "The line is JSON, but not an object with chosen and rejected.")
    return row


def parse_pair(row: dict[str, Any], *, line: int) -> Pair:
    """The pair that a row holds, in any of the forms above. Raises BadLine.

    A prompt that is repeated at the start of both answers' messages is taken out of them. An answer may hold assistant
    and tool messages only: conversations that differ before the last question are refused (`prompts_differ`).
    """
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadLine("missing_field", f"The line has no '{name}'.")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if _is_transcript(chosen) and _is_transcript(rejected):
        sides = _transcripts(chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str) and (prompt is None or isinstance(prompt, str)):
        sides = _plain(prompt, chosen, rejected)
    else:
        sides = _conversations(prompt, chosen, rejected)
    _check_answers(*sides)
    return Pair(line, *sides, tools=_tools(row), weight=_weight(row), p_chosen=_p_chosen(row))


def parse_prompt(row: dict[str, Any], *, line: int) -> Prompt:
    """The prompt that a row holds, whether or not it has answers. Raises BadLine."""
    return Prompt(line, _prompt_of(row, line), _tools(row))


def _prompt_of(row: dict[str, Any], line: int) -> list[dict]:
    if row.get("prompt") is None:
        return parse_pair(row, line=line).prompt
    messages = _messages(row["prompt"], PLAIN_TEXT, "prompt")
    is_chat = any(isinstance(row.get(side), list) for side in ("chosen", "rejected"))
    if is_chat and isinstance(row["prompt"], str):
        messages = _messages(row["prompt"], "user", "prompt")
    if not messages:
        raise BadLine("empty_prompt", "The prompt has no message.")
    return messages


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def _transcripts(chosen: str, rejected: str) -> tuple[list[dict], list[dict], list[dict]]:
    sides = _conversations(None, _turns(chosen), _turns(rejected))
    if any(len(side) != 1 for side in sides[1:]):
        raise BadLine("prompts_differ", "The two transcripts differ before their last answer.")
    return sides


def _turns(transcript: str) -> list[dict]:
    """The messages of an Anthropic HH transcript."""
    parts = TURN.split(transcript.lstrip())
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": ROLES[speaker], "content": text.strip()} for speaker, text in turns]


def _plain(prompt: str | None, chosen: str, rejected: str) -> tuple[list[dict], list[dict], list[dict]]:
    if prompt is None:
        shared = _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt.strip() and chosen != rejected:
            raise BadLine("empty_prompt", "The line has no 'prompt', and its answers don't begin alike.")
    return tuple([{"role": PLAIN_TEXT, "content": text}] for text in (prompt, chosen, rejected))  # type: ignore[return-value]


def _shared_text(left: str, right: str) -> int:
    """Length of the implicit prompt: the common beginning up to a word's end, so that no word is cut in two."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    if same == min(len(left), len(right)) and all(text[same : same + 1].strip() == "" for text in (left, right)):
        return same
    while same and not left[same - 1].isspace():
        same -= 1
    # A space before a word belongs to the word, as tokenizers have it.
    return same - 1 if same and left[same - 1] == " " else same


def _conversations(prompt: Any, chosen: Any, rejected: Any) -> tuple[list[dict], list[dict], list[dict]]:
    sides = [_messages(value, "assistant", name) for value, name in ((chosen, "chosen"), (rejected, "rejected"))]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False)))
    given = _messages(prompt, "user", "prompt") if prompt is not None else []
    if not given:
        # Equal conversations are all shared: their last turn is still the answer.
        shared = min(shared, *(len(side) - 1 for side in sides))
        return sides[0][:shared], sides[0][shared:], sides[1][shared:]
    repeated = len(given)
    if all(side[:repeated] == given and len(side) > repeated for side in sides):
        sides = [side[repeated:] for side in sides]
    elif isinstance(prompt, str) and all(side[0]["role"] in ("system", "user") for side in sides):
        return _conversations(None, *sides)
    return given, sides[0], sides[1]


def _messages(value: Any, role: str, name: str) -> list[dict]:
    """A field as messages; a string is one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadLine("bad_field", f"'{name}' is neither a string nor a list of messages.")
    if name != "prompt" and not value:
        raise BadLine("empty_answer", f"'{name}' has no message.")
    return [_message(item, name) for item in value]


def _message(item: dict, name: str) -> dict:
    if not isinstance(item.get("role"), str):
        raise BadLine("bad_field", f"A message of '{name}' has no role.")
    content = item.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadLine("unsupported_content", f"A message of '{name}' holds something other than text.")
        content = "".join(part["text"] for part in content)
    if content is None and item.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadLine("bad_field", f"A message of '{name}' has no text in 'content'.")
    return {key: part for key, part in item.items() if part is not None} | {"content": content}


def _check_answers(prompt: list[dict], chosen: list[dict], rejected: list[dict]) -> None:
    if not prompt:
        raise BadLine("empty_prompt", "There is no prompt before the answers.")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if any(message["role"] not in ANSWER_ROLES for message in side):
            raise BadLine("prompts_differ", "The two conversations differ before their last answer.")
        if side[-1]["role"] == "tool":
            raise BadLine("no_answer", f"'{name}' ends with a tool's message, not with an answer.")
        if not side[-1]["content"].strip() and not side[-1].get("tool_calls"):
            raise BadLine("empty_answer", f"'{name}' is an empty answer.")
    if chosen == rejected:
        raise BadLine("identical_completions", "Chosen and rejected are the same, so there is nothing to learn.")


def _tools(row: dict[str, Any]) -> list | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadLine("bad_field", f"'tools' is a string but not JSON: {error}") from error
    if tools is not None and not isinstance(tools, list):
        raise BadLine("bad_field", "'tools' is not a list.")
    return tools or None


def _weight(row: dict[str, Any]) -> float:
    return _number(row, "weight", "bad_weight", lambda value: value >= 0, "a number of 0 or more")


def _p_chosen(row: dict[str, Any]) -> float:
    return _number(row, "p_chosen", "bad_p_chosen", lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(row: dict[str, Any], name: str, reason: str, allowed: Callable[[float], bool], wanted: str) -> float:
    value = row.get(name)
    if value is None:
        return 1.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not allowed(value):
        raise BadLine(reason, f"'{name}' is {value!r}, not {wanted}.")
    return float(value)
