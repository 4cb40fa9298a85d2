"""What the engine prints, read from its file."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.events.types import Logged, PhaseReached, Sampled, StepTaken
from worker.process.output import LONGEST_TEXT, parse, read


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    path.write_bytes(b'{"event": "step", "step": 1, "loss": 0.5}\n{"event": "st')
    printed, offset = read(path, 0)
    assert printed == [StepTaken(step=1, more={"loss": 0.5})]
    assert read(path, offset) == ([], offset)
    with path.open("ab") as file:
        file.write(b'ate", "stage": "training"}\n')
    assert read(path, offset) == ([PhaseReached(stage="training")], path.stat().st_size)


def test_line_longer_than_a_read_is_still_found(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b'\n{"event": "log", "message": "after"}\n')
    printed, offset = read(path, 0)
    assert printed[0] == Logged(message="A line of 3000000 bytes was left out.", level="warning")
    assert offset > 3_000_000


def test_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "absent", 7) == ([], 0)


def test_engine_can_not_tell_a_jobs_state_nor_this_machines_folders() -> None:
    line = b'{"event": "state", "state": "succeeded", "path": "/home/x", "stage": "exporting"}'
    assert parse(line) == PhaseReached(stage="exporting")


@given(st.binary(max_size=200))
def test_any_line_becomes_an_event_that_databases_take(line: bytes) -> None:
    event = parse(line.replace(b"\n", b""))
    assert event.step is None or isinstance(event.step, int)
    assert "\x00" not in str(event.data)
    str(event.data).encode("utf-8")


@given(st.text())
def test_any_text_of_a_sample_is_kept_but_for_nul(text: str) -> None:
    event = parse(json.dumps({"event": "sample", "completion": text}).encode())
    assert isinstance(event, Sampled)
    assert event.completion == text.replace("\x00", "�")[:LONGEST_TEXT]
