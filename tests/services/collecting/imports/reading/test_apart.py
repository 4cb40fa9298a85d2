"""Lines that another process understands: what comes of them is what this one makes of them, and its end is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.db import read_session
from app.models import ImportState
from app.services.collecting.imports import load
from app.services.collecting.imports.reading import apart, batches
from app.services.collecting.imports.reading.apart import Helper, HelperLost
from app.services.collecting.imports.reading.batches import Batch
from app.services.collecting.imports.records.refusals import BadLine, FileBroken
from app.services.collecting.imports.records.roles import Role
from app.services.collecting.imports.records.rows import Row
from tests.factory import Factory


def wait(helper: Helper) -> Helper:
    """A helper that has started, so that a test knows who understands which batch."""
    assert helper._talk.poll(120)
    return helper


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_LINES", 5)
    monkeypatch.setattr(apart, "BATCHES_BEFORE", 2)
    monkeypatch.setattr(apart, "_cores", lambda: 2)
    monkeypatch.setattr(Helper, "__enter__", wait)


def rows(count: int) -> Iterator[Row]:
    for number in range(1, count + 1):
        row: dict[str, Any] = {"question": f"Question {number}?", "chosen": "Yes.", "rejected": "No.", "colour": "blue"}
        row |= {"model_a": "one", "note": [number]} if number % 3 else {"rejected": "Yes."} if number % 2 else {}
        yield number, row if number % 7 else BadLine("bad_json", "Not JSON."), len(json.dumps(row))


def given(first: object) -> dict[str, Role]:
    return {"question": Role.PROMPT}


def without_wordings(batch: Batch) -> tuple[object, ...]:
    return batch.lines, batch.parsed, batch.outcome, batch.report, batch.given, batch.broken


@pytest.mark.parametrize("count", [3, 10, 11, 15, 42])
def test_the_batches_are_those_of_one_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(apart, "_cores", lambda: 1)
        alone = list(apart.read(rows(count), given, worded=False))
    both = list(apart.read(rows(count), given, worded=False))
    assert [without_wordings(batch) for batch in both] == [without_wordings(batch) for batch in alone]
    compared = [bool(batch.worded) for batch in both]
    assert compared == [number >= 2 and bool(batch.parsed) for number, batch in enumerate(both)]


def test_a_machine_of_one_core_starts_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_cores", lambda: 1)
    monkeypatch.setattr(apart, "Helper", None)
    assert len(list(apart.read(rows(42), given, worded=False))) == 9


def test_a_file_that_breaks_gives_what_it_had() -> None:
    def broken() -> Iterator[Row]:
        yield from rows(23)
        raise FileBroken("The file ends within a line.")

    read = list(apart.read(broken(), given, worded=False))
    assert [batch.broken for batch in read] == ["", "", "", "", "The file ends within a line."]
    assert read[-1].lines == 3


def test_it_is_gone_when_nobody_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Helper] = []
    monkeypatch.setattr(Helper, "__enter__", lambda self: started.append(self) or wait(self))
    read = apart.read(rows(100), given, worded=False)
    for _ in range(4):
        next(read)
    read.close()
    (helper,) = started
    assert helper._process.returncode is not None


def test_it_ends_with_the_process_that_asks() -> None:
    helper = wait(Helper())
    helper._talk.close()
    assert helper._process.wait(60) == 0


def test_what_it_fails_at_is_told() -> None:
    with Helper() as helper:
        assert helper.takes_over(apart.Reader())
        helper.ask([(1, None, 1)], "")  # type: ignore[list-item] - no row, so that it fails
        with pytest.raises(HelperLost, match="failed: TypeError"):
            helper.answer()


def test_an_import_whose_helper_is_killed_keeps_what_it_had_and_goes_on_when_it_is_run_again(
    factory: Factory, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, user = factory.project(), factory.engineer()
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "responses": ["a", "b"]}) + "\n" for n in range(40)))
    ask = Helper.ask

    def dies_at_the_third(self: Helper, some: Any, broken: str) -> None:
        if some[0][0] > 20:
            self._process.kill()
            self._process.wait()
        ask(self, some, broken)

    def run() -> Any:
        with path.open("rb") as stream:
            return load.load(
                factory.engine,
                project_id=project.id,
                user_id=user.id,
                stream=stream,
                filename=path.name,
                settings=settings,
            )

    with monkeypatch.context() as patch:
        patch.setattr(Helper, "ask", dies_at_the_third)
        with pytest.raises(HelperLost):
            run()
    with read_session(factory.engine) as session:
        (row,) = load.listing(session, project=project)
    assert row.state is ImportState.FAILED and 10 <= row.added < 40
    assert "ended with -9" in row.error and "Run it again" in row.error
    again = run()
    assert (again.state, again.added, again.duplicates) == (ImportState.DONE, 40 - row.added, row.added)


def test_the_cores_are_those_that_the_system_gives_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(apart.os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert apart._cores() == 3
    monkeypatch.delattr(apart.os, "sched_getaffinity")
    monkeypatch.setattr(apart.os, "cpu_count", lambda: 8)
    assert apart._cores() == 8
