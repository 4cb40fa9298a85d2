"""A file in batches: how large they are, what each says of the lines up to its end, and how it ends."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.services.collecting.duplicates.near import wordings
from app.services.collecting.imports.reading import batches
from app.services.collecting.imports.reading.batches import Batch
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.refusals import BadLine, FileBroken
from app.services.collecting.imports.records.rows import Row


def lines(count: int, **more: Any) -> Iterator[Row]:
    for number in range(1, count + 1):
        row = {"prompt": f"Question {number}?", "responses": ["Yes.", "No."], **more}
        yield number, row, len(json.dumps(row))


def read(rows: Iterator[Row], *, worded: bool = False) -> list[Batch]:
    reader = Reader()
    return [batches.understood(reader, some, broken, worded=worded) for some, broken in batches.of_rows(rows)]


def test_a_batch_has_so_many_lines_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_LINES", 4)
    assert [batch.lines for batch in read(lines(10))] == [4, 4, 2]
    monkeypatch.setattr(batches, "BATCH_BYTES", 100)
    assert [batch.lines for batch in read(lines(5))] == [2, 2, 1]


def test_each_batch_says_what_became_of_the_lines_up_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_LINES", 2)
    one, other = read(lines(3, colour="blue"))
    assert one.report.columns["prompt"] == {"prompt": 2} and one.report.columns["colour"] == {"left_out": 2}
    assert other.report.columns["prompt"] == {"prompt": 3} and not one.broken


def test_a_line_that_is_refused_is_told_with_its_number() -> None:
    def rows() -> Iterator[Row]:
        yield from lines(1)
        yield 2, BadLine("bad_json", "Not JSON."), 3
        yield 3, {"prompt": "Q?", "responses": ["same", "same"]}, 50

    (batch,) = read(rows())
    assert (batch.lines, [number for number, _ in batch.parsed]) == (3, [1])
    told = [(rejection["line"], rejection["reason"]) for rejection in batch.outcome.rejections]
    assert told == [(2, "bad_json"), (3, "identical_answers")]


def test_a_file_that_breaks_gives_what_it_had() -> None:
    def rows() -> Iterator[Row]:
        yield from lines(3)
        raise FileBroken("The file ends within a line.")

    (batch,) = read(rows())
    assert (batch.lines, len(batch.parsed), batch.broken) == (3, 3, "The file ends within a line.")


def test_an_empty_file_is_one_batch_without_lines() -> None:
    (batch,) = read(iter(()))
    assert (batch.lines, batch.parsed, batch.broken) == (0, [], "")


def test_prompts_are_compared_already_for_whoever_wants_it() -> None:
    (plain,), (worded,) = read(lines(3)), read(lines(3), worded=True)
    assert not plain.worded
    assert worded.worded == {
        one.pair.hashes.prompt: wording
        for (_, one), wording in zip(worded.parsed, wordings(one.pair.prompt for _, one in worded.parsed), strict=True)
    }
