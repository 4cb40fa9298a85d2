# Written by `make run-config` from worker/dpo/data/records/rendered.py: change it there.
"""Texts that a chat template rendered already, or that are transcripts, back into turns.

To render them again would put one template into the other. A dialect is known by how a text begins; one that begins
with a template's own token and can't be taken apart is refused.
"""

import re
from dataclasses import dataclass

from app.services.collecting.imports.records.messages import Message
from app.services.collecting.imports.records.refusals import BadLine

# Patterns here begin with no run of white space, which would be tried anew at each of its places.
BEGIN = r"(?:(?:<s>|<\|begin_of_text\|>|<bos>|<\|startoftext\|>|<\|endoftext\|>)\s*)?"
ENDS = (
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<eos>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
)
SPEAKERS = {
    "answer": "assistant",
    "assistant": "assistant",
    "gpt": "assistant",
    "human": "user",
    "instruction": "user",
    "model": "assistant",
    "prompt": "user",
    "question": "user",
    "response": "assistant",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
CONTROL = re.compile(r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id)\|>|<(?:start|end)_of_turn>")
PREAMBLES = ("Below is an instruction that describes", "A chat between")


@dataclass(frozen=True, slots=True)
class Dialect:
    """begins: how a text of it begins. mark: what stands before each turn, with the speaker as group 1. needs: what
    must occur in a text for it to be one. strict: its marks are a template's tokens, so a text that begins with one is no
    other text."""

    begins: re.Pattern[str]
    mark: re.Pattern[str]
    needs: str = ""
    strict: bool = True


DIALECTS = (
    Dialect(re.compile(BEGIN + r"<\|im_start\|>"), re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n?")),
    Dialect(
        re.compile(BEGIN + r"<\|start_header_id\|>"),
        re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>[ \t]*\n*"),
    ),
    Dialect(re.compile(BEGIN + r"<start_of_turn>"), re.compile(r"<start_of_turn>(\w+)[ \t]*\n?")),
    Dialect(re.compile(BEGIN + r"<\|(?:user|system|assistant)\|>"), re.compile(r"<\|(user|system|assistant)\|>\n?")),
    Dialect(re.compile(r"(?:<｜begin▁of▁sentence｜>)?<｜User｜>"), re.compile(r"<｜(User|Assistant)｜>")),
    Dialect(
        re.compile(r"(?:Human|Assistant):"),
        re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?"),
        "\n\nAssistant:",
        strict=False,
    ),
    Dialect(
        re.compile(rf"(?:###\s*(?:Human|User|Instruction|System|Question)\s*:|{PREAMBLES[0]})"),
        re.compile(r"###\s*(Human|User|Assistant|Instruction|Response|System|Question|Answer)\s*:[ \t]*\n?"),
        "###",
        strict=False,
    ),
    Dialect(
        re.compile(rf"(?:USER:|{PREAMBLES[1]})"),
        re.compile(r"(?:\A|(?<=\s)|(?<=</s>))(USER|ASSISTANT):[ \t]?"),
        "ASSISTANT:",
        strict=False,
    ),
)
INST = re.compile(BEGIN + r"\[(?:INST|SYSTEM_PROMPT)\]")
# A template's token of a kind that isn't taken apart here.
UNKNOWN = re.compile(r"<[|｜][A-Za-z_▁]+[|｜]>|\[(?:INST|SYSTEM_PROMPT)\]")
# The characters that a rendered text begins with, so that most texts cost one look.
OPENINGS = "<[#HAUB"


def turns_of(text: str) -> list[Message] | None:
    """The messages of a rendered text or a transcript, the last of which may be an empty assistant's; None for any
    other text. Raises BadLine for a rendered text that can't be taken apart."""
    first = text[:1]
    if first.isspace():
        text = text.lstrip()
        first = text[:1]
    if not first or first not in OPENINGS:
        return None
    if INST.match(text):
        return _inst(text)
    for dialect in DIALECTS:
        if dialect.begins.match(text) and dialect.needs in text:
            return _marked(text, dialect)
    return _refused() if UNKNOWN.match(text) else None


def without_end(text: str) -> str:
    """A text without the tokens that a template puts after a turn, nor the white space around them."""
    stop, end = len(text), len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in ENDS if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:stop]
        end -= len(token)
        while end and text[end - 1].isspace():
            end -= 1
        stop = end


def _marked(text: str, dialect: Dialect) -> list[Message] | None:
    messages: list[Message] = []
    marks = list(dialect.mark.finditer(text))
    before = text[: marks[0].start()] if marks else text
    if before.strip():
        if before.startswith(PREAMBLES):
            messages.append({"role": "system", "content": before.strip()})
        elif not dialect.strict or not re.fullmatch(rf"(?:{BEGIN}|<｜begin▁of▁sentence｜>)", before):
            return _refused() if dialect.strict else None
    for mark, end in zip(marks, [mark.start() for mark in marks[1:]] + [len(text)], strict=True):
        role = SPEAKERS.get(mark[1].lower())
        content = without_end(text[mark.end() : end])
        if role is None or (dialect.strict and CONTROL.search(content)):
            return _refused()
        messages.append({"role": role, "content": content.strip()})
    return messages or None


def _inst(text: str) -> list[Message]:
    """Llama 2's and Mistral's turns: `[INST] question [/INST] answer </s>`, with a system message in the first question."""
    messages: list[Message] = []
    before, *turns = text.split("[INST]")
    head, marked, system = before.partition("[SYSTEM_PROMPT]")
    if marked:
        system, closed, rest = system.partition("[/SYSTEM_PROMPT]")
        if not closed or rest.strip():
            return _refused()
        messages.append({"role": "system", "content": system.strip()})
    for turn in turns:
        question, closed, answer = turn.partition("[/INST]")
        if not closed or "[/INST]" in answer:
            return _refused()
        question = question.strip()
        if question.startswith("<<SYS>>"):
            system, closed, question = question.removeprefix("<<SYS>>").partition("<</SYS>>")
            if not closed or messages:
                return _refused()
            messages.append({"role": "system", "content": system.strip()})
        messages.append({"role": "user", "content": question.strip()})
        messages.append({"role": "assistant", "content": without_end(answer.rstrip().removesuffix("<s>")).strip()})
    if not turns or not re.fullmatch(BEGIN, head.strip()):
        return _refused()
    return messages


def _refused() -> list[Message]:
    raise BadLine(
        "rendered_text",
        "A text was rendered by a chat template that can't be taken apart here, and would be rendered twice. Give its "
        "messages as a list of role and content.",
    )
