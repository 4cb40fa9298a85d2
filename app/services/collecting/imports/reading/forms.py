"""One row of a file to the pairs that a project stores, with what was said of them, and why a row is not. Pure.

`records` reads the forms, by the same rules as the engine; here are the limits of what a project can hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.models import Arm, Choice, SourceKind
from app.services.collecting.exclusions import LeftOut
from app.services.collecting.imports.reading.counted import votes_of_counts
from app.services.collecting.imports.reading.details import details_of, left_out
from app.services.collecting.imports.records import refusals
from app.services.collecting.imports.records.conversation import goes_on
from app.services.collecting.imports.records.forms import Reader, Reading
from app.services.collecting.imports.records.refusals import BadLine
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.rows import row_of
from app.services.collecting.imports.records.votes import Vote
from app.services.collecting.messages import Message, Unfit, answers_of, messages_of, prompt_of
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
    **{reason: text for reason, text in refusals.REASONS.items() if reason != "unsupported_content"},
    "contradicts_earlier": "The same pair was judged before with another result.",
    "in_evaluation": "An evaluation compares these two answers blind.",
    "nul_character": "A text contains a NUL character.",
}
GOLD = {
    "first": Choice.FIRST,
    "a": Choice.FIRST,
    "second": Choice.SECOND,
    "b": Choice.SECOND,
    "tie": Choice.TIE,
    "both_bad": Choice.BOTH_BAD,
}
LONGEST_NOTE = 100_000


@dataclass(frozen=True)
class Parsed:
    """A pair, and what people said of it in terms of its answers, if they did. `excluded`: it was left out where the file was made."""

    pair: NewPair
    votes: tuple[Vote, ...] = ()
    excluded: LeftOut | None = None

    @property
    def judged(self) -> bool:
        return bool(self.votes)


def parse(line: bytes, reader: Reader | None = None) -> list[Parsed]:
    """The pairs of one line of JSON Lines. Raises Unfit with a reason of REASONS."""
    try:
        row = row_of(line)
    except BadLine as bad:
        raise unfit(bad) from bad
    return parse_row(reader or Reader(), row)


def parse_row(reader: Reader, row: dict[str, Any]) -> list[Parsed]:
    """The pairs of one row. Raises Unfit with a reason of REASONS."""
    try:
        readings = reader.read(row)
        return [_parsed(reader, reading) for reading in readings]
    except BadLine as bad:
        raise unfit(bad) from bad


def unfit(bad: BadLine) -> Unfit:
    return Unfit("not_text" if bad.reason == "unsupported_content" else bad.reason, bad.message)


def _parsed(reader: Reader, reading: Reading) -> Parsed:
    values = reading.values
    prompt, answers = reading.prompt, (reading.first, reading.second)
    if any(len(message) > 2 for message in prompt) or any(len(one) > 1 or len(one[0]) > 2 for one in answers):
        _name_what_is_left(reader, {"prompt": prompt, "answer": [*reading.first, *reading.second]})
    turns = tuple(turns_of(answer) for answer in answers)
    one, other = (in_one(of) if of else answer for of, answer in zip(turns, answers, strict=True))
    first, second = answers_of(one, other, ("The first answer", "The second answer"))
    votes = tuple(reading.votes)
    if Role.VOTES in values:
        votes = votes_of_counts(votes, values)
    pair = NewPair(
        prompt_of(prompt),
        (first, second),
        (source_of(reading.sources[0]), source_of(reading.sources[1])),
        _priority(values.get(Role.PRIORITY)),
        _gold(values.get(Role.GOLD)),
        _external_id(values.get(Role.ID)),
        (turns[0], turns[1]),
        _arm(values.get(Role.ARM), reader),
    )
    votes = tuple(replace(vote, details=details_of(vote.details, reader)) if vote.details else vote for vote in votes)
    if len(votes) > 1:  # votes of which nobody knows whose they are, are of different people
        votes = tuple(
            vote if vote.rater else replace(vote, rater=f"Vote {number}", name=f"Vote {number}")
            for number, vote in enumerate(votes, 1)
        )
    for vote in votes:
        if "\0" in vote.note or "\0" in vote.name or "\0" in vote.rater:
            raise Unfit("nul_character", "A vote contains a NUL character, which databases can't store.")
        if len(vote.note) > LONGEST_NOTE:
            raise Unfit("bad_field", f"The reason for a vote is longer than {LONGEST_NOTE:,} characters.")
    excluded = values.get(Role.EXCLUDED)
    return Parsed(pair, votes, left_out(excluded, "excluded") if excluded else None)


def turns_of(answer: list[Message]) -> list[Message] | None:
    """The messages of an answer that goes on over several turns; None for one message. Raises Unfit."""
    if len(answer) < 2 or not goes_on(answer):
        return None
    turns = messages_of(answer, "The answer")
    if not all(message["content"].strip() for message in turns):
        raise Unfit("empty_answer", "An answer of several turns has an empty message.")
    return turns


def in_one(turns: list[Message]) -> str:
    """An answer of several turns as people read it: its messages one under the other, with who speaks."""
    spoken = (f"**{message['role'].capitalize()}:** {message['content']}" for message in turns[1:])
    return "\n\n".join((turns[0]["content"], *spoken))


def _name_what_is_left(reader: Reader, parts: Mapping[str, list[Message]]) -> None:
    for what, messages in parts.items():
        for message in messages:
            for key in message.keys() - {"role", "content", "tool_calls"}:
                reader.leave_out(f"{what}[].{key}")


def source_of(value: Any) -> Source:
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


def _whole(value: Any) -> int | None:
    """A whole number however it is written: 5, 5.0 (a table that had gaps) or "5" (a cell)."""
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _priority(value: Any) -> int:
    number = 0 if value is None else _whole(value)
    if number is None or number not in PRIORITIES:
        raise Unfit("bad_field", f"`priority` isn't a whole number from {PRIORITIES[0]:,} to {PRIORITIES[-1]:,}.")
    return number


def _gold(value: Any) -> Choice | None:
    if value is not None and (not isinstance(value, str) or value not in GOLD):
        raise Unfit("bad_field", f"`gold` is none of {', '.join(GOLD)}.")
    return GOLD[value] if value is not None else None


def _arm(value: Any, reader: Reader) -> Arm | None:
    """The arm that an extract says; in other files a column of this name means something else."""
    if isinstance(value, str) and value in set(Arm):
        return Arm(value)
    if value is not None and value != "":
        reader.leave_out("arm")
    return None


def _external_id(value: Any) -> str | None:
    if value is None or value == "":
        return None
    whole = _whole(value) if not isinstance(value, str) else None
    text = str(whole if whole is not None else value) if type(value) in (int, float) else value
    if isinstance(value, float) and abs(value) >= 2**53:
        raise Unfit("bad_field", "`id` is a number that was rounded when it was read. Write it as text.")
    if not isinstance(text, str) or len(text) > LONGEST_EXTERNAL_ID or "\0" in text:
        raise Unfit("bad_field", f"`id` isn't a number or a text of up to {LONGEST_EXTERNAL_ID} characters.")
    return text
