"""A row of a preference file as `Pair`s or a `Prompt` to train with.

`records` reads the forms, by the same rules as the app's import. Here stand what training adds: `tools`, `weight` (0 or
more) and `p_chosen` (0 to 1), texts that no template wraps, and that somebody must have said which answer is better.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from worker.dpo.data.pairs import PLAIN_TEXT, Pair, Prompt
from worker.dpo.data.records.conversation import goes_on
from worker.dpo.data.records.forms import Reader, Reading
from worker.dpo.data.records.messages import Message
from worker.dpo.data.records.refusals import BadLine
from worker.dpo.data.records.roles import BY_NAME, Role, normal
from worker.dpo.data.records.votes import FIRST, SECOND, Vote

ANSWER_ROLES = {"assistant", "tool", PLAIN_TEXT}
# What training knows by another code than the app's import.
REASONS = {
    "bad_message": "bad_field",
    "bad_roles": "prompts_differ",
    "differs_before_last_turn": "prompts_differ",
    "identical_answers": "identical_completions",
    "no_common_prompt": "empty_prompt",
    "not_text": "bad_field",
    "not_utf8": "bad_encoding",
    "two_prompts": "prompts_differ",
    "unknown_form": "missing_field",
}
# Understood, and nothing that a model could learn from: who answered, which pair it was, how many voted.
BESIDE_TRAINING = {
    Role.ID,
    Role.PRIORITY,
    Role.GOLD,
    Role.ARM,
    Role.SOURCES,
    Role.FIRST_SOURCE,
    Role.SECOND_SOURCE,
    Role.VOTES,
    Role.VOTES_CHOSEN,
}


def parse_pair(row: dict[str, Any], *, line: int) -> Pair:
    """The pair of a row that holds one. Raises BadLine."""
    return parse_pairs(Reader(), row, line=line)[0]


def parse_pairs(reader: Reader, row: dict[str, Any], *, line: int) -> list[Pair]:
    """The pairs of a row, in any of the forms. Raises BadLine with a code of docs/preference-data.md."""
    try:
        readings = reader.read(row)
    except BadLine as bad:
        raise renamed(bad) from bad
    return [_pair(reading, line) for reading in readings]


def parse_prompt(reader: Reader, row: dict[str, Any], *, line: int) -> Prompt:
    """The prompt that a row holds, whether or not it has answers. Raises BadLine."""
    try:
        sides = reader.prompt(row)
    except BadLine as bad:
        raise renamed(bad) from bad
    messages = _text(sides.plain[0]) if sides.plain else sides.prompt
    if not messages:
        raise BadLine("empty_prompt", "The line has no prompt.")
    return Prompt(line, messages, _tools(row.get("tools")))


def renamed(bad: BadLine) -> BadLine:
    return BadLine(REASONS.get(bad.reason, bad.reason), bad.message)


def left_out(columns: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The columns that training uses on no line, but for those that say which pair it is."""
    return [
        column
        for column, roles in columns.items()
        if roles.keys() == {Role.LEFT_OUT.value} and BY_NAME.get(normal(column)) not in BESIDE_TRAINING
    ]


def _pair(reading: Reading, line: int) -> Pair:
    sides = (reading.first, reading.second)
    prompt = reading.prompt
    if reading.plain is not None:
        prompt, *texts = (_text(text) for text in reading.plain)
        sides = (texts[0], texts[1])
    if _winner(reading.votes) == SECOND:
        sides = (sides[1], sides[0])
    _check_answers(prompt, *sides)
    values = reading.values
    if values.get(Role.EXCLUDED):
        raise BadLine("excluded", "The pair was left out of training where the file was made.")
    return Pair(
        line,
        prompt,
        *sides,
        tools=_tools(values.get(Role.TOOLS)),
        weight=_number(values.get(Role.WEIGHT), "weight", lambda value: value >= 0, "a number of 0 or more"),
        p_chosen=_number(values.get(Role.P_CHOSEN), "p_chosen", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    )


def _text(text: str) -> list[Message]:
    return [{"role": PLAIN_TEXT, "content": text}]


def _winner(votes: list[Vote]) -> str:
    """first or second, whichever most people chose. Raises BadLine where nobody did."""
    counted = Counter(vote.choice for vote in votes if not (vote.details or {}).keys() & {"superseded", "excluded"})
    del counted["skip"]
    if not counted:
        raise BadLine("not_judged", "Nobody said which answer is better.")
    (winner, most), *others = counted.most_common()
    if others and others[0][1] == most:
        raise BadLine("no_majority", "As many votes are for one answer as against it.")
    if winner not in (FIRST, SECOND):
        raise BadLine("no_majority", f"The vote is “{winner.replace('_', ' ')}”, so neither answer is better.")
    return winner


def _check_answers(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> None:
    if not prompt:
        raise BadLine("empty_prompt", "There is no prompt before the answers.")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if any(message["role"] not in ANSWER_ROLES for message in side) and not goes_on(side):
            raise BadLine("prompts_differ", "The two conversations differ before their last answer.")
        if side[-1]["role"] == "tool":
            raise BadLine("no_answer", f"'{name}' ends with a tool's message, not with an answer.")
        if not side[-1]["content"].strip() and not side[-1].get("tool_calls"):
            raise BadLine("empty_answer", f"'{name}' is an empty answer.")
    if chosen == rejected:
        raise BadLine("identical_completions", "Chosen and rejected are the same, so there is nothing to learn.")


def _tools(tools: Any) -> list | None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadLine("bad_field", f"'tools' is a string but not JSON: {error}") from error
    if tools is not None and not isinstance(tools, list):
        raise BadLine("bad_field", "'tools' is not a list.")
    return tools or None


def _number(value: Any, name: str, allowed: Callable[[float], bool], wanted: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, str):  # a table's cell
        with contextlib.suppress(ValueError):
            value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not allowed(value):
        raise BadLine(f"bad_{name}", f"'{name}' is {value!r}, not {wanted}.")
    return float(value)
