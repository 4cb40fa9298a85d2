# Written by `make run-config` from worker/dpo/data/records/conversation.py: change it there.
"""Prompt and two answers as messages, from whatever columns and forms hold them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from app.services.collecting.imports.records.messages import (
    BEFORE_AN_ANSWER,
    Message,
    all_same,
    is_message,
    messages_of,
    structured,
    text_of,
)
from app.services.collecting.imports.records.plan import Plan
from app.services.collecting.imports.records.question import Asked
from app.services.collecting.imports.records.refusals import BadLine
from app.services.collecting.imports.records.rendered import turns_of, without_end
from app.services.collecting.imports.records.roles import Role, normal

# A prompt that is shorter may begin an answer by chance.
SHORTEST_REPEATED = 12


@dataclass(slots=True)
class Sides:
    """A prompt and two answers. `plain`: the three texts as they stand, where all of them are texts that no role goes with."""

    prompt: list[Message]
    first: list[Message]
    second: list[Message]
    plain: tuple[str, str, str] | None = None


def sides_of(prompt: Asked, values: tuple[Any, Any], plan: Plan, columns: tuple[str, str]) -> Sides:
    """Prompt and answers of one pair: answers may repeat the conversation before them, or hold the prompt alone."""
    first, second = (_answer_of(value, column, prompt.rendered) for value, column in zip(values, columns, strict=True))
    system_only = bool(prompt.messages) and all(message["role"] == "system" for message in prompt.messages)
    if not prompt.messages or system_only:
        if isinstance(first, str) and isinstance(second, str):
            if plan.prompts:  # a prompt that was left empty is no reason to take one out of the answers
                texts = (
                    (prompt.text or "", first, second) if Role.CHOSEN in plan.by_role and not prompt.messages else None
                )
                return Sides(prompt.messages, _messages(first), _messages(second), texts)
            return _split_texts(first, second, plan, prompt)
        if isinstance(first, str) != isinstance(second, str):
            context, first, second = _of_one(first, second, columns)
        else:
            go_on = Role.CHOSEN not in plan.by_role
            context, first, second = _split(_messages(first), _messages(second), columns, go_on=go_on)
        if not context:
            raise BadLine("no_common_prompt", "The two conversations don't begin alike, so there is no prompt.")
        if system_only and context[0]["role"] != "system":
            context = prompt.messages + context
        elif system_only and not all_same(context[:1], prompt.messages):
            raise BadLine(
                "two_prompts", "The answers and a column hold different system messages. Leave one of them out."
            )
        return Sides(context, first, second)
    if isinstance(first, str) and isinstance(second, str):
        taken = _without_prompt(prompt, first, second)
        plain = (str(prompt.text), taken[0], taken[1]) if _is_plain(prompt, plan, values) else None
        return Sides(prompt.messages, _messages(taken[0]), _messages(taken[1]), plain)
    return _after(prompt.messages, _messages(first), _messages(second), columns)


def _is_plain(prompt: Asked, plan: Plan, values: tuple[Any, Any]) -> bool:
    """TRL's standard form: three texts that no template wraps."""
    return (
        prompt.text is not None
        and Role.CHOSEN in plan.by_role
        and len(plan.prompts) == 1
        and normal(plan.prompts[0]) == "prompt"
        and isinstance(values[0], str)
    )


def _answer_of(value: Any, column: str, rendered: bool) -> str | list[Message]:
    """An answer's text, or the messages of a conversation that ends with it."""
    if isinstance(value, str):
        value = structured(value, column)
    if isinstance(value, str):
        turns = turns_of(value)
        return turns if turns is not None else (without_end(value) if rendered else value)
    if is_message(value):
        value = [value]
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and "text" in part and "type" in part for part in value)
    ):
        return text_of(value, f"`{column}`")
    if not isinstance(value, list):
        raise BadLine("not_text", f"`{column}` isn't text but {type(value).__name__}.")
    if not value:
        raise BadLine("empty_answer", f"`{column}` has no message.")
    return messages_of(value, column)


def _messages(answer: str | list[Message]) -> list[Message]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer


def _split(
    first: list[Message], second: list[Message], columns: tuple[str, str], *, go_on: bool = False
) -> tuple[list[Message], ...]:
    """(what both conversations begin with, the first's end, the second's end).

    go_on: ends may be answers that go on over several turns, as those of an arena, whose votes are on whole conversations.
    """
    shared = 0
    most = min(len(first), len(second)) - 1  # of equal conversations the last turn is still the answer
    while shared < most and first[shared] == second[shared]:
        shared += 1
    ends = first[shared:], second[shared:]
    for end, column in zip(ends, columns, strict=True):
        if end[-1]["role"] in BEFORE_AN_ANSWER:
            raise BadLine("bad_roles", f"`{column}` ends with the {end[-1]['role']}'s message, not with an answer.")
        if any(message["role"] in BEFORE_AN_ANSWER for message in end) and not (go_on and shared and goes_on(end)):
            raise BadLine(
                "differs_before_last_turn",
                f"`{columns[0]}` and `{columns[1]}` differ from message {shared + 1} on, before the last answer "
                f"({len(first)} and {len(second)} messages).",
            )
    if (
        shared
        and max(map(len, ends)) > 1
        and all(end[0]["role"] == "assistant" for end in ends)
        and _unequal_turns(*ends)
    ):
        raise BadLine(
            "differs_before_last_turn",
            f"`{columns[0]}` and `{columns[1]}` differ from message {shared + 1} on, before the last answer "
            f"({len(first)} and {len(second)} messages).",
        )
    return first[:shared], *ends


def _of_one(
    first: str | list[Message], second: str | list[Message], columns: tuple[str, str]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The same where one answer is a whole conversation and the other a text alone."""
    whole, column = (first, columns[0]) if isinstance(first, list) else (second, columns[1])
    assert isinstance(whole, list)
    if whole[-1]["role"] in BEFORE_AN_ANSWER:
        raise BadLine("bad_roles", f"`{column}` ends with the {whole[-1]['role']}'s message, not with an answer.")
    if isinstance(first, list):
        return whole[:-1], whole[-1:], _messages(second)
    return whole[:-1], _messages(first), whole[-1:]


def goes_on(answer: list[Message]) -> bool:
    """Whether an answer is a conversation that goes on from it: assistant, user, assistant …"""
    roles = [message["role"] for message in answer]
    return roles == ["assistant", "user"] * (len(roles) // 2) + ["assistant"]


def _unequal_turns(first: list[Message], second: list[Message]) -> bool:
    """Whether an end has two answers in a row without a tool between them: two turns of which the user's is missing."""
    return any(
        one["role"] == other["role"] == "assistant" and not one.get("tool_calls")
        for end in (first, second)
        for one, other in pairwise(end)
    )


def _after(prompt: list[Message], first: list[Message], second: list[Message], columns: tuple[str, str]) -> Sides:
    """The pair where a column holds the prompt and an answer may repeat it, with turns or a system message more."""
    whole = [any(message["role"] in BEFORE_AN_ANSWER for message in side) for side in (first, second)]
    if goes_on(first) and goes_on(second):
        return Sides(prompt, first, second)
    if all(whole):
        context, first, second = _split(first, second, columns)
        return Sides(_longer(prompt, context, columns[0]), first, second)
    if whole[0]:
        prompt, first = _longer(prompt, first[:-1], columns[0]), first[-1:]
    if whole[1]:
        prompt, second = _longer(prompt, second[:-1], columns[1]), second[-1:]
    return Sides(prompt, first, second)


def _longer(prompt: list[Message], context: list[Message], column: str) -> list[Message]:
    """The longer of two contexts that end alike, with the system message of either."""
    long, short = (prompt, context) if len(prompt) >= len(context) else (context, prompt)
    if all_same(long[len(long) - len(short) :], short):
        return long
    without = [message for message in short if message["role"] != "system"]
    turns = [message for message in long if message["role"] != "system"]
    if (
        without
        and all_same(turns[len(turns) - len(without) :], without)
        and (len(without) == len(short) or len(turns) == len(long))
    ):
        return [message for message in short if message["role"] == "system"] + long
    raise BadLine(
        "differs_before_last_turn", f"The messages before the answer in `{column}` aren't those of the prompt."
    )


def _without_prompt(prompt: Asked, first: str, second: str) -> tuple[str, str]:
    """Both answers without the prompt, where both of them begin with it."""
    text = (prompt.text or "").rstrip()
    if len(text) < SHORTEST_REPEATED or not (first.startswith(text) and second.startswith(text)):
        return first, second
    rest = first[len(text) :], second[len(text) :]
    ends_a_part = text[-1:] in ":\n?>]" or all(not one or one[0].isspace() for one in rest)
    return (rest[0], rest[1]) if ends_a_part and all(one.strip() for one in rest) else (first, second)


def _split_texts(first: str, second: str, plan: Plan, prompt: Asked) -> Sides:
    """The prompt of two plain texts is what both begin with, up to the end of a word."""
    if plan.unknown:
        columns = ", ".join(f"`{column}`" for column in plan.unknown)
        raise BadLine(
            "no_common_prompt", f"No column is known as the prompt. Say what {columns} is: the prompt, or left out."
        )
    if plan.judged_by != Role.CHOSEN.value:
        raise BadLine("empty_prompt", "The line has no prompt.")
    if first == second:
        raise BadLine("identical_answers", "Both texts are the same, so there is nothing to compare.")
    end = _common(first, second)
    while end and not first[end - 1].isspace():
        end -= 1
    if not first[:end].strip():
        raise BadLine("no_common_prompt", "The two texts don't begin alike, so there is no prompt.")
    context = [*prompt.messages, {"role": "user", "content": first[:end].strip()}]
    # A space before a word belongs to the word, as tokenizers have it.
    cut = end - 1 if first[end - 1] == " " else end
    plain = None if prompt.messages else (first[:cut], first[cut:], second[cut:])
    return Sides(context, _messages(first[end:].strip()), _messages(second[end:].strip()), plain)


def _common(first: str, second: str) -> int:
    """Length of what both begin with, by halving: a comparison of slices is quick where one of characters isn't."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
