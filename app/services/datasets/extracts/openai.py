"""The preference form of OpenAI's fine-tuning, which Azure, Fireworks and Together take as well. Pure.

What all four take: `input.messages` of system, user and assistant with text, the user's last, and one assistant message in
each output.
"""

from collections.abc import Mapping
from typing import Any

ROLES = ("system", "user", "assistant")
# Why a pair can't be written, as people are told.
REASONS = {
    "tool_message": "hold a tool's message, which not all of these services take",
    "no_last_question": "have a prompt that doesn't end with the user's message",
    "several_messages": "have an answer of several messages",
    "empty": "have an empty message",
}


def line_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot's line in that form."""
    return {
        "input": {"messages": row["prompt"], "tools": [], "parallel_tool_calls": True},
        "preferred_output": row["chosen"],
        "non_preferred_output": row["rejected"],
    }


def refusal(row: Mapping[str, Any]) -> str:
    """Why a line of that form would be refused, a key of REASONS; empty where it wouldn't."""
    messages, outputs = row["input"]["messages"], (row["preferred_output"], row["non_preferred_output"])
    if any(message["role"] not in ROLES for message in messages):
        return "tool_message"
    if not messages or messages[-1]["role"] != "user":
        return "no_last_question"
    if any(len(output) != 1 or output[0]["role"] != "assistant" for output in outputs):
        return "several_messages"
    texts = [message["content"] for message in (*messages, *outputs[0], *outputs[1])]
    return "" if all(isinstance(text, str) and text.strip() for text in texts) else "empty"
