"""A file as batches of pairs, with what is to be known of them before the transaction that stores them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app import writer
from app.models import ImportReport
from app.services.collecting.duplicates.near import Wording, wordings
from app.services.collecting.imports.reading import told
from app.services.collecting.imports.reading.forms import parse_row, unfit
from app.services.collecting.imports.reading.outcome import Numbered, Outcome
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.refusals import BadLine, FileBroken
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.rows import Row
from app.services.collecting.messages import Unfit

BATCH_LINES = 1_000
BATCH_BYTES = 4_000_000
BATCH_SECONDS = 2.0
LINES_BEFORE_OTHERS = 20


@dataclass(frozen=True)
class Batch:
    """So many lines, the pairs of those that were understood, and what became of the others. `report` and `given` are of all lines up
    to its end; `broken` says why the file ends there, if it does. `worded`: the wordings of prompts, where they are known already."""

    lines: int
    parsed: list[Numbered]
    outcome: Outcome
    report: ImportReport
    given: Mapping[str, Role]
    broken: str
    worded: Mapping[str, Wording]


def understood(reader: Reader, rows: Sequence[Row], broken: str = "", *, worded: bool) -> Batch:
    """The batch of some rows. worded: whether prompts are to be compared already, for whoever has time for it now."""
    outcome = Outcome()
    parsed = list(_parse(rows, outcome, reader))
    prompts = {one.pair.hashes.prompt: one.pair.prompt for _, one in parsed} if worded else {}
    return Batch(
        len(rows),
        parsed,
        outcome,
        told.report(reader),
        dict(reader.given),
        broken,
        dict(zip(prompts, wordings(prompts.values()), strict=True)),
    )


def of_rows(rows: Iterator[Row]) -> Iterator[tuple[list[Row], str]]:
    """Batches by number of lines, bytes or seconds; the last one with why the stream broke, if it did."""
    batch: list[Row] = []
    size, began = 0, time.monotonic()
    try:
        for number, row, of_row in rows:
            batch.append((number, row, of_row))
            size += of_row
            if len(batch) >= BATCH_LINES or size >= BATCH_BYTES or time.monotonic() - began > BATCH_SECONDS:
                yield batch, ""
                batch, size, began = [], 0, time.monotonic()
    except FileBroken as error:
        yield batch, str(error)
    else:
        yield batch, ""


def _parse(rows: Sequence[Row], outcome: Outcome, reader: Reader) -> Iterator[Numbered]:
    for at, (number, row, _) in enumerate(rows):
        if at % LINES_BEFORE_OTHERS == 0:
            writer.give_way()
        try:
            if isinstance(row, BadLine):
                raise unfit(row)
            for parsed in parse_row(reader, row):
                yield number, parsed
        except Unfit as refused:
            outcome.reject(number, refused)
