"""The first rows of a file as they would be read, before anything is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import orjson
from sqlalchemy import Engine

from app.config import Settings
from app.services.collecting.imports import mapping
from app.services.collecting.imports.reading import told
from app.services.collecting.imports.reading.forms import parse_row, unfit
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.plan import unfolded
from app.services.collecting.imports.records.refusals import BadLine, FileBroken, shown
from app.services.collecting.imports.records.roles import GIVEN, WORDS, Role
from app.services.collecting.imports.records.rows import Row, read_rows
from app.services.collecting.messages import Message, Unfit

ROWS = 20
PAIRS_OF_A_ROW = 6
LONGEST_CELL = 160
FIRST_ROLES = (
    Role.LEFT_OUT,
    Role.PROMPT,
    Role.SYSTEM,
    Role.CHOSEN,
    Role.REJECTED,
    Role.FIRST,
    Role.SECOND,
    Role.ANSWERS,
    Role.VOTE,
    Role.STRENGTH,
    Role.FIRST_SOURCE,
    Role.SECOND_SOURCE,
    Role.ID,
)
# What a menu offers: what most files need, then the rest.
ROLES = tuple(
    (role.value, WORDS[role]) for role in (*FIRST_ROLES, *(role for role in GIVEN if role not in FIRST_ROLES))
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the file: what it becomes, in the role's name and in words, whether a person said so, and its first
    values."""

    name: str
    role: str
    word: str
    is_given: bool
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair as it would be stored, with what was said of it in words."""

    prompt: list[Message]
    first: str
    second: str
    said: str


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row: its pairs, or why it is refused. `more` pairs of it aren't shown."""

    line: int
    pairs: tuple[ShownPair, ...] = ()
    more: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """recognised: one sentence. error: why the file can't be read at all, or not further than these rows."""

    recognised: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[ShownRow, ...] = ()
    error: str = ""
    refused: int = 0
    given: dict[str, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        return any(row.pairs for row in self.rows)


def look(
    engine: Engine, *, project_id: int, stream: BinaryIO, settings: Settings, given: Mapping[str, str] | None = None
) -> Preview:
    """Reads the first rows of a file, by what a person said of its columns or said of such a file before. Raises Invalid
    for a mapping that can't be."""
    roles = mapping.checked(given)
    rows: list[Row] = []
    error = ""
    try:
        reading = read_rows(
            stream, max_line=settings.max_line_bytes, max_total=settings.max_import_bytes, known=tuple(roles or ())
        )
        rows.extend(islice(reading, ROWS))
    except FileBroken as broken:
        error = str(broken)
    if not rows:
        return Preview(error=error or "The file has no lines.")
    roles = mapping.settle(engine, project_id=project_id, rows=rows, given=roles, keep=False)
    reader = Reader(roles)
    shown = tuple(_shown(reader, number, row) for number, row, _ in rows)
    became = told.columns_of(reader)
    return Preview(
        told.sentence(became),
        _columns(rows, reader, became),
        shown,
        error,
        sum(not row.pairs for row in shown),
        {column: role.value for column, role in roles.items()},
    )


def _shown(reader: Reader, number: int, row: dict[str, Any] | BadLine) -> ShownRow:
    try:
        if isinstance(row, BadLine):
            raise unfit(row)
        parsed = parse_row(reader, row)
    except Unfit as refused:
        return ShownRow(number, reason=refused.reason, message=refused.message)
    pairs = tuple(
        ShownPair(one.pair.prompt, *one.pair.responses, _said([vote.choice for vote in one.votes]))
        for one in parsed[:PAIRS_OF_A_ROW]
    )
    return ShownRow(number, pairs, len(parsed) - len(pairs))


SAID = {
    "first": "first is better",
    "second": "second is better",
    "tie": "equally good",
    "both_bad": "both bad",
    "skip": "skipped",
}


def _said(choices: Sequence[str]) -> str:
    if not choices:
        return "waits for a judgment"
    counts = {choice: choices.count(choice) for choice in dict.fromkeys(choices)}
    return ", ".join(SAID[choice] + (f" ({count} votes)" if count > 1 else "") for choice, count in counts.items())


def _columns(rows: Sequence[Row], reader: Reader, became: Mapping[str, Mapping[str, int]]) -> tuple[Column, ...]:
    columns: dict[str, list[str]] = {}
    roles: dict[str, str] = {}
    for _, row, _ in rows:
        if isinstance(row, dict):
            plan = reader.plan(row)
            for column, value in unfolded(row).items():
                examples = columns.setdefault(column, [])
                if value is not None and len(examples) < 2:
                    examples.append(_cell(value))
                role = plan.roles.get(column, Role.LEFT_OUT).value
                if roles.get(column, Role.EMPTY.value) == Role.EMPTY.value:
                    roles[column] = role
    for column, counts in became.items():
        if column in roles:
            roles[column] = max(counts, key=lambda role: counts[role])
    return tuple(
        Column(name, roles[name], WORDS[Role(roles[name])], name in reader.given, tuple(examples))
        for name, examples in list(columns.items())[: mapping.MOST_COLUMNS]
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else _as_json(value)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _as_json(value: object) -> str:
    """As the file wrote it, for whoever knows JSON and no Python."""
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # nested too deeply, or a number that JSON can't hold
        return shown(value, LONGEST_CELL)
