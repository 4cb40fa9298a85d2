"""One line of an import to a pair: the forms that are understood, and why a line is not. Pure."""

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import orjson

from app.models import Choice, SourceKind
from app.services.collecting.messages import Message, Unfit, answers_of, messages_of, prompt_of, text_of
from app.services.collecting.pairs import (
    LONGEST_EXTERNAL_ID,
    LONGEST_SOURCE,
    PRIORITIES,
    UNKNOWN,
    NewPair,
    Source,
)

# Every reason that a line can be refused for; each rejection also has a message of its own.
REASONS = {
    "bad_json": "The line isn't JSON.",
    "bad_field": "A field has a value that it can't have.",
    "bad_message": "A message isn't an object with role and content.",
    "bad_roles": "Roles are unknown or in an order that can't be trained on.",
    "contradicts_earlier": "The same pair was judged before with another result.",
    "differs_before_last_turn": "The two conversations differ before the last answer.",
    "empty_answer": "An answer is empty.",
    "empty_prompt": "The prompt is empty.",
    "identical_answers": "Both answers are the same.",
    "no_common_prompt": "The two texts don't begin alike, so there is no prompt.",
    "not_an_object": "The line is JSON, but not an object.",
    "not_text": "A prompt or an answer isn't text.",
    "not_two_answers": "There aren't exactly two answers.",
    "not_utf8": "The line isn't UTF-8.",
    "nul_character": "A text contains a NUL character.",
    "too_long": "The line is too long.",
    "unknown_form": "The fields are those of no known form.",
}
FORMS = "prompt and responses; prompt, response_a and response_b; prompt, chosen and rejected; chosen and rejected"
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
GOLD = {
    "first": Choice.FIRST,
    "a": Choice.FIRST,
    "second": Choice.SECOND,
    "b": Choice.SECOND,
    "tie": Choice.TIE,
    "both_bad": Choice.BOTH_BAD,
}


@dataclass(frozen=True)
class Parsed:
    """A pair, and whether it is judged already: then its first answer is the chosen one."""

    pair: NewPair
    judged: bool


def parse(line: bytes) -> Parsed:
    """Reads one line. Raises Unfit with a reason of REASONS."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise Unfit("not_utf8", f"Byte {error.start + 1} isn't UTF-8.") from error
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unfit("bad_json", f"Not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise Unfit("not_an_object", "Not a JSON object. Write one object a line, not one array in a file.")
    if "chosen" in row and "rejected" in row:
        return Parsed(_judged(row), judged=True)
    if "prompt" in row and "responses" in row:
        return Parsed(_waiting(row, row["responses"]), judged=False)
    if "prompt" in row and "response_a" in row and "response_b" in row:
        return Parsed(_waiting(row, [row["response_a"], row["response_b"]]), judged=False)
    given = ", ".join(sorted(row)[:8])[:200] or "none"
    raise Unfit("unknown_form", f"The fields are {given}. Expected {FORMS}.")


def _waiting(row: dict[str, Any], answers: Any) -> NewPair:
    """Our own form: `prompt` with `responses` [a, b] or `response_a` and `response_b`, and optionally `sources`,
    `priority`, `gold` and `id`. A response may be an object with `text` and `source`."""
    if not isinstance(answers, list) or len(answers) != 2:
        raise Unfit("not_two_answers", "`responses` isn't a list of two answers.")
    sources = row.get("sources", [row.get("source_a"), row.get("source_b")])
    if not isinstance(sources, list) or len(sources) != 2:
        raise Unfit("bad_field", "`sources` isn't a list of two.")
    texts, writers = [], []
    for answer, source in zip(answers, sources, strict=True):
        if isinstance(answer, dict) and "text" in answer:
            answer, source = answer["text"], answer.get("source", source)
        texts.append(answer)
        writers.append(_source(source))
    first, second = answers_of(texts[0], texts[1], ("The first answer", "The second answer"))
    return NewPair(
        prompt_of(_prompt_value(row["prompt"])),
        (first, second),
        (writers[0], writers[1]),
        _priority(row),
        _gold(row),
        _external_id(row),
    )


def _judged(row: dict[str, Any]) -> NewPair:
    """TRL's preference forms, explicit (`prompt`, `chosen`, `rejected`) and implicit (`chosen`, `rejected` that begin
    alike), as strings or messages, and Anthropic's HH transcripts."""
    chosen, rejected = row["chosen"], row["rejected"]
    if row.get("prompt") is None:
        prompt, chosen, rejected = _split(chosen, rejected)
    else:
        prompt = prompt_of(_prompt_value(row["prompt"]))
        chosen, rejected = _without(prompt, chosen), _without(prompt, rejected)
    texts = answers_of(chosen, rejected, ("The chosen answer", "The rejected answer"))
    sources = _source(row.get("chosen_source")), _source(row.get("rejected_source"))
    return NewPair(prompt_of(prompt), texts, sources, _priority(row), None, _external_id(row))


def _prompt_value(value: Any) -> Any:
    """A prompt written as a transcript that ends with `Assistant:` becomes its messages."""
    if isinstance(value, str) and (turns := transcript(value)) and turns[-1] == {"role": "assistant", "content": ""}:
        return turns[:-1]
    return value


def _without(prompt: list[Message], answer: Any) -> Any:
    """An answer that repeats the conversation before it, as some data sets have it, without that conversation."""
    if not isinstance(answer, list) or len(answer) < 2:
        return answer
    messages = messages_of(answer, "The answer")
    before, last = messages[:-1], messages[-1:]
    if before != prompt and before[-len(prompt) :] != prompt:
        raise Unfit("differs_before_last_turn", "An answer has messages before it that aren't those of the prompt.")
    return last


def _split(chosen: Any, rejected: Any) -> tuple[list[Message], Any, Any]:
    """(prompt, chosen answer, rejected answer) of two conversations that begin alike."""
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _split_messages(
            messages_of(chosen, "The chosen conversation"), messages_of(rejected, "The rejected conversation")
        )
    chosen, rejected = text_of(chosen, "`chosen`"), text_of(rejected, "`rejected`")
    conversations = transcript(chosen), transcript(rejected)
    if conversations[0] and conversations[1]:
        return _split_messages(*conversations)
    return _split_texts(chosen, rejected)


def _split_messages(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], Any, Any]:
    if not chosen or not rejected:
        raise Unfit("empty_answer", "A conversation has no messages.")
    if chosen == rejected:
        raise Unfit("identical_answers", "Both conversations are the same, so there is nothing to compare.")
    if chosen[0] != rejected[0] or len(chosen) < 2 or len(rejected) < 2:
        raise Unfit("no_common_prompt", "The two conversations don't begin alike, so there is no prompt.")
    if chosen[:-1] != rejected[:-1]:
        turn = 1 + sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
        raise Unfit(
            "differs_before_last_turn",
            f"The conversations differ from message {turn} on, before the last answer "
            f"({len(chosen)} and {len(rejected)} messages).",
        )
    return chosen[:-1], chosen[-1:], rejected[-1:]


def _split_texts(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """The prompt of two plain texts is what both begin with, up to the end of a word."""
    end = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if chosen == rejected:
        raise Unfit("identical_answers", "Both texts are the same, so there is nothing to compare.")
    while end and not chosen[end - 1].isspace():
        end -= 1
    if not chosen[:end].strip():
        raise Unfit("no_common_prompt", "The two texts don't begin alike, so there is no prompt.")
    return [{"role": "user", "content": chosen[:end].strip()}], chosen[end:].strip(), rejected[end:].strip()


def transcript(text: str) -> list[Message]:
    """The messages of `\\n\\nHuman: …\\n\\nAssistant: …`; empty for text of another kind."""
    text = text.strip()
    marks = list(TURN.finditer(text))
    if not marks or marks[0].start() != 0:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        {"role": SPEAKERS[mark[1]], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]


def _source(value: Any) -> Source:
    """A name, or an object with `kind` (model, checkpoint, file, person) and `name`."""
    if value is None or value == "":
        return UNKNOWN
    kind = SourceKind.MODEL
    if isinstance(value, dict):
        if value.get("kind", kind) not in list(SourceKind):
            raise Unfit("bad_field", f"A source's kind is none of {', '.join(SourceKind)}.")
        kind, value = SourceKind(value.get("kind", kind)), value.get("name")
    if not isinstance(value, str) or len(value) > LONGEST_SOURCE or "\0" in value:
        raise Unfit("bad_field", f"A source isn't a name of up to {LONGEST_SOURCE} characters.")
    return Source(kind, value)


def _priority(row: dict[str, Any]) -> int:
    value = row.get("priority") or 0
    if type(value) is not int or value not in PRIORITIES:
        raise Unfit("bad_field", f"`priority` isn't a whole number from {PRIORITIES[0]:,} to {PRIORITIES[-1]:,}.")
    return value


def _gold(row: dict[str, Any]) -> Choice | None:
    value = row.get("gold")
    if value is not None and (not isinstance(value, str) or value not in GOLD):
        raise Unfit("bad_field", f"`gold` is none of {', '.join(GOLD)}.")
    return GOLD[value] if value is not None else None


def _external_id(row: dict[str, Any]) -> str | None:
    value = row["id"] if row.get("id") is not None else row.get("external_id")
    if value is None or value == "":
        return None
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or len(text) > LONGEST_EXTERNAL_ID or "\0" in text:
        raise Unfit("bad_field", f"`id` isn't a number or a text of up to {LONGEST_EXTERNAL_ID} characters.")
    return text
