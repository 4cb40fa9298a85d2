"""OpenAI's preference form, and what the services that take it would refuse."""

from typing import Any

import pytest

from app.services.datasets.extracts import openai


def row(**changes: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "A"}],
        "rejected": [{"role": "assistant", "content": "B"}],
        "weight": 1.0,
    } | changes


def test_a_line_has_the_input_and_both_outputs_and_nothing_else() -> None:
    line = openai.line_of(row())
    assert line == {
        "input": {"messages": row()["prompt"], "tools": [], "parallel_tool_calls": True},
        "preferred_output": row()["chosen"],
        "non_preferred_output": row()["rejected"],
    }
    assert openai.refusal(line) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": [{"role": "user", "content": "Q"}, {"role": "tool", "content": "T"}]}, "tool_message"),
        ({"prompt": []}, "no_last_question"),
        ({"prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, "no_last_question"),
        ({"chosen": [{"role": "assistant", "content": "A"}] * 2}, "several_messages"),
        ({"rejected": [{"role": "user", "content": "A"}]}, "several_messages"),
        ({"prompt": [{"role": "user", "content": " "}]}, "empty"),
    ],
)
def test_a_pair_that_would_be_refused_is_named(changes: dict[str, Any], reason: str) -> None:
    assert openai.refusal(openai.line_of(row(**changes))) == reason
    assert reason in openai.REASONS
