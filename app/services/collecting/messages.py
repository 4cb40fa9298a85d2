"""What a prompt and an answer may be, whoever brings them: a line of a file, the API, a page."""

import hashlib
from typing import Any

import orjson

from app.services.collecting.characters import is_seen

ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, str]


class Unfit(ValueError):
    """Why a prompt or an answer can't be used: `reason` is a stable code, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def text_of(value: Any, what: str) -> str:
    """A message's text: a string, or the list of text parts that multimodal formats write."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in value):
            raise Unfit("not_text", f"{what} has a part that isn't text; only text can be compared.")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Unfit("not_text", f"{what} isn't a string.")
    if "\0" in value:
        raise Unfit("nul_character", f"{what} contains a NUL character, which databases can't store.")
    return value


def messages_of(value: list[Any], what: str) -> list[Message]:
    """A list of `{role, content}` with known roles; other keys are left away."""
    messages = []
    for number, message in enumerate(value, 1):
        place = f"{what}, message {number},"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise Unfit("bad_message", f"{place} isn't an object with `role` and `content`.")
        if message["role"] not in ROLES:
            raise Unfit("bad_roles", f"{place} has a role other than {', '.join(ROLES)}.")
        if message.get("tool_calls"):
            raise Unfit("not_text", f"{place} calls tools, which can't be compared yet.")
        messages.append({"role": message["role"], "content": text_of(message["content"], place[:-1])})
    return messages


def prompt_of(value: Any) -> list[Message]:
    """A prompt as messages: a string is one user's message. It ends with what the answer replies to."""
    messages = (
        messages_of(value, "The prompt")
        if isinstance(value, list)
        else [{"role": "user", "content": text_of(value, "The prompt")}]
    )
    if not messages or not any(message["content"].strip() for message in messages):
        raise Unfit("empty_prompt", "The prompt is empty.")
    if not any(is_seen(message["content"]) for message in messages):
        raise Unfit("empty_prompt", "The prompt has no character that can be seen.")
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise Unfit("bad_roles", "A system message stands elsewhere than at the start of the prompt.")
    if roles[-1] not in ("user", "tool"):
        raise Unfit("bad_roles", f"The prompt ends with the {roles[-1]}'s message; it has to end with the user's.")
    return messages


def answer_of(value: Any, what: str) -> str:
    """An answer's text: a string, or the one assistant message of a list."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        messages = messages_of(value, what)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise Unfit("bad_roles", f"{what} isn't exactly one assistant message.")
        value = messages[0]["content"]
    text = text_of(value, what)
    if not text.strip():
        raise Unfit("empty_answer", f"{what} is empty.")
    if not is_seen(text):
        raise Unfit("empty_answer", f"{what} has no character that can be seen.")
    return text


def answers_of(first: Any, second: Any, names: tuple[str, str]) -> tuple[str, str]:
    """Two answers that differ in more than white space."""
    texts = answer_of(first, names[0]), answer_of(second, names[1])
    if texts[0].strip() == texts[1].strip():
        raise Unfit("identical_answers", "Both answers are the same, so there is nothing to compare.")
    return texts


def prompt_hash(messages: list[Message]) -> str:
    """SHA-256 of roles and contents, in order."""
    return hashlib.sha256(orjson.dumps([[message["role"], message["content"]] for message in messages])).hexdigest()


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pair_hash(prompt: str, answers: tuple[str, str]) -> str:
    """SHA-256 over the hashes of a prompt and its two answers, the same whichever answer comes first."""
    return hashlib.sha256("".join((prompt, *sorted(answers))).encode()).hexdigest()
