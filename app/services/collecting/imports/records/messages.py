# Written by `make run-config` from worker/dpo/data/records/messages.py: change it there.
"""What a column holds as messages: `{role, content}` whatever the program that wrote it calls them."""

import ast
from collections.abc import Sequence
from typing import Any

import orjson

from app.services.collecting.imports.records.refusals import BadLine, shown

Message = dict[str, Any]
# ShareGPT says human and gpt, OpenAI's newer models developer, LLaMA-Factory observation.
ROLES = {
    "ai": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "developer": "system",
    "function": "tool",
    "gpt": "assistant",
    "human": "user",
    "model": "assistant",
    "observation": "tool",
    "prompter": "user",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
SPEAKER_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text")
BEFORE_AN_ANSWER = ("system", "user")


def is_message(value: Any) -> bool:
    """Whether a value is one message, in any of the spellings."""
    return isinstance(value, dict) and any(key in value for key in ("role", "from"))


def is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_message(item) for item in value)


def is_from_assistant(message: dict[str, Any]) -> bool:
    """Whether the message says that the assistant wrote it, by a name that is known; its role may be anything."""
    role = message.get("role", message.get("from"))
    return isinstance(role, str) and ROLES.get(role) == "assistant"


def text_of(value: Any, what: str) -> str:
    """A message's text: a string, or the list of text parts that multimodal formats write."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if any(part.get("type", "text") != "text" or not isinstance(part.get("text"), str) for part in value):
            raise BadLine("unsupported_content", f"{what} has a part that isn't text; only text can be compared.")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise BadLine("not_text", f"{what} isn't text but {shown(value)}.")
    return value


def message_of(item: Any, what: str) -> Message:
    """One message with a known role's own name; keys beside role and content stay. Raises BadLine."""
    if type(item) is dict and len(item) == 2:
        role, content = item.get("role"), item.get("content")
        if type(role) is str and type(content) is str:
            return {"role": ROLES.get(role) or _role(role), "content": content}
    if not isinstance(item, dict):
        raise BadLine("bad_message", f"{what} isn't an object with `role` and `content`.")
    speaker = next((key for key in SPEAKER_KEYS if key in item), None)
    words = next((key for key in TEXT_KEYS if key in item), None)
    if speaker is None or (words is None and not item.get("tool_calls")):
        raise BadLine("bad_message", f"{what} isn't an object with `role` and `content`.")
    role = item[speaker]
    if not isinstance(role, str):
        raise BadLine("bad_roles", f"{what} has a role that isn't a word: {shown(role)}.")
    content = item[words] if words else ""
    if content is None and item.get("tool_calls"):
        content = ""
    rest = {key: part for key, part in item.items() if key not in (speaker, words) and part is not None}
    return {"role": _role(role), "content": text_of(content, what), **rest}


def _role(role: str) -> str:
    return ROLES.get(role.strip().lower(), role)


def messages_of(value: Sequence[Any], column: str) -> list[Message]:
    """A list of messages; `column` is named in what is refused."""
    return [message_of(item, f"`{column}`, message {number},") for number, item in enumerate(value, 1)]


def structured(text: str, column: str) -> Any:
    """A text as it is, or the messages that a CSV or a Parquet column holds as JSON (or as Python prints them)."""
    start = text.lstrip()[:200]
    if not start.startswith(("[{", "{", "[ {", "[\n")) or not any(f"{key}" in start for key in ("role", "from")):
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _as_python(text, column)
    return value if is_message(value) or is_conversation(value) else text


def _as_python(text: str, column: str) -> Any:
    looks_written = any(mark in text[:200] for mark in ("'role'", "'from'", '"role"', '"from"'))
    if not looks_written:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadLine("not_text", f"`{column}` looks like messages, but they can't be read as JSON.") from error


def same(one: Message, other: Message) -> bool:
    """Whether two messages say the same but for white space at their ends."""
    return one["role"] == other["role"] and one["content"].strip() == other["content"].strip()


def all_same(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return len(some) == len(others) and all(same(one, other) for one, other in zip(some, others, strict=True))
