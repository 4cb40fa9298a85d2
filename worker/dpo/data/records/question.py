"""The prompt of a line: its messages from every column that holds a part of it."""

from dataclasses import dataclass
from typing import Any

import orjson

from worker.dpo.data.records.messages import (
    Message,
    all_same,
    is_conversation,
    is_message,
    messages_of,
    structured,
    text_of,
)
from worker.dpo.data.records.plan import Plan
from worker.dpo.data.records.refusals import BadLine
from worker.dpo.data.records.rendered import turns_of
from worker.dpo.data.records.roles import Role


@dataclass(slots=True)
class Asked:
    """The prompt that a line's columns give. `text`: where it is one plain text. `rendered`: it was rendered by a template."""

    messages: list[Message]
    text: str | None = None
    rendered: bool = False


def asked(row: dict[str, Any], plan: Plan, chosen: Any = None) -> Asked:
    """The prompt of a line, empty where its columns hold none. Raises BadLine with the columns' names."""
    prompt = Asked([])
    for column in plan.prompts:
        other = _prompt_of(row[column], column)
        if not other.messages:
            prompt.text = prompt.text or other.text  # white space alone asks nothing, and is trained on as it stands
            continue
        if not prompt.messages:
            prompt = other
        elif not _goes_with(prompt, other, chosen):
            raise BadLine(
                "two_prompts",
                f"`{plan.prompts[0]}` and `{column}` hold different prompts. Say which is the prompt, and leave the other out.",
            )
        elif len(other.messages) > len(prompt.messages) and other.messages[-1]["role"] == "user":
            prompt = other  # the same question with the turns before it
    roles = plan.by_role
    if Role.INPUT in roles:
        prompt = _with_input(prompt, row[roles[Role.INPUT]], roles[Role.INPUT])
    if Role.HISTORY in roles:
        prompt = Asked(_turns_before(row[roles[Role.HISTORY]], roles[Role.HISTORY]) + prompt.messages)
    if Role.SYSTEM in roles:
        prompt = _with_system(prompt, row[roles[Role.SYSTEM]], roles[Role.SYSTEM])
    return prompt


def _prompt_of(value: Any, column: str) -> Asked:
    if isinstance(value, str):
        if not value.strip():
            return Asked([], value)
        value = structured(value, column)
    if isinstance(value, str):
        turns = turns_of(value)
        if turns is None:
            return Asked([{"role": "user", "content": value}], value)
        if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
            turns = turns[:-1]
        return Asked(turns, rendered=True)
    if is_message(value):
        value = [value]
    if not isinstance(value, list):
        raise BadLine("not_text", f"`{column}` is neither text nor a list of messages.")
    return Asked(messages_of(value, column))


def _goes_with(one: Asked, other: Asked, chosen: Any) -> bool:
    """Whether two columns hold the same prompt: equal, one the last question of the other, or with the chosen answer."""
    long, short = (one, other) if len(one.messages) >= len(other.messages) else (other, one)
    if all_same(long.messages[-len(short.messages) :], short.messages):
        return True
    if long.messages[-1]["role"] == "assistant":
        return all_same(long.messages[:-1][-len(short.messages) :], short.messages)
    return False


def _with_input(prompt: Asked, value: Any, column: str) -> Asked:
    """An instruction and what it is about, one under the other, as Alpaca's data sets are trained on."""
    more = text_of(value, f"`{column}`")
    if not more.strip():
        return prompt
    if not prompt.messages:
        return Asked([{"role": "user", "content": more}], more)
    if prompt.text is None:
        raise BadLine("two_prompts", f"`{column}` can't be joined to a prompt of several messages. Leave it out.")
    if prompt.text.strip() == more.strip():
        return prompt
    text = f"{prompt.text.rstrip()}\n{more}"
    return Asked([{"role": "user", "content": text}])


def _turns_before(value: Any, column: str) -> list[Message]:
    """Earlier turns: a list of messages, or of [question, answer]."""
    if isinstance(value, str):
        turns = turns_of(value) if value.strip() else []
        if turns is None:
            raise BadLine("bad_message", f"`{column}` is a text that isn't a transcript.")
        return turns
    if is_conversation(value):
        return messages_of(value, column)
    messages: list[Message] = []
    for turn in value if isinstance(value, list) else [None]:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise BadLine("bad_message", f"`{column}` isn't a list of [question, answer].")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def _with_system(prompt: Asked, value: Any, column: str) -> Asked:
    text = text_of(value, f"`{column}`")
    if not text.strip():
        return prompt
    system = {"role": "system", "content": text}
    if prompt.messages and prompt.messages[0]["role"] == "system":
        if prompt.messages[0]["content"].strip() != text.strip():
            raise BadLine(
                "two_prompts", f"`{column}` and the prompt hold different system messages. Leave one of them out."
            )
        return prompt
    return Asked([system, *prompt.messages], rendered=prompt.rendered)


def turns_in_lists(prompt: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
    """The arena's form: three lists of texts, or JSON text of them, one place a turn, as conversations."""
    lists = [_texts(value) for value in (prompt, first, second)]
    questions, *answers = lists
    if questions is None or not all(one is not None and len(one) == len(questions) for one in answers):
        return prompt, first, second
    conversations = []
    for texts in answers:
        turns: list[Message] = []
        for question, answer in zip(questions, texts or [], strict=True):
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        conversations.append(turns)
    return None, conversations[0], conversations[1]


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    is_list = isinstance(value, list) and bool(value) and all(isinstance(one, str | None) for one in value)
    return value if is_list else None
