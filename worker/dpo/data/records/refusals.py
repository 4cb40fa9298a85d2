"""Why a line, or a whole file, can't be read: a stable code and a sentence that names the column."""

import math

# Every reason that a line can be refused for by what is read here.
REASONS = {
    "bad_json": "The line isn't JSON.",
    "bad_field": "A column has a value that it can't have.",
    "bad_message": "A message isn't an object with role and content.",
    "bad_roles": "Roles are unknown or in an order that can't be trained on.",
    "differs_before_last_turn": "The two conversations differ before the last answer.",
    "empty_answer": "An answer is empty.",
    "empty_prompt": "The prompt is empty.",
    "identical_answers": "Both answers are the same.",
    "no_common_prompt": "No column is the prompt, and the two answers don't begin alike.",
    "not_an_object": "The line is JSON, but not an object.",
    "not_text": "A prompt or an answer isn't text.",
    "not_two_answers": "There aren't two answers or more.",
    "not_utf8": "The line isn't UTF-8.",
    "rendered_text": "A text was rendered by a chat template that can't be taken apart.",
    "too_long": "The line is too long.",
    "too_many_answers": "The line has more answers than can be paired.",
    "two_prompts": "Two columns hold different prompts.",
    "unsupported_content": "A message has a part that isn't text.",
    "unknown_form": "No columns are known as two answers.",
}


class BadLine(ValueError):
    """A line that can't be used. `reason` is a stable code, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["BadLine"], tuple[str, str]]:
        return BadLine, (self.reason, self.message)  # an exception is copied by its message alone otherwise


class FileBroken(Exception):
    """Why nothing more can be read of a file; everything before it was. The message says what to do."""


def number_in(value: object, column: str) -> float:
    """The finite number that a column holds, itself or as text. Raises BadLine."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not a number.")
    return number


def shown(value: object, most: int = 60) -> str:
    """A value as a message can show it."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= most else text[: most - 1] + "…"
