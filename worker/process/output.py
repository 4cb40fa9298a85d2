"""Reads what a job's program prints, from the file that it prints to: nothing is lost when the reader dies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.events.reading import of_printed
from app.events.types import Evaluated, Event, Logged, Sampled, StepTaken

ONCE_A_STEP = (StepTaken, Evaluated, Sampled)
CHUNK = 1_000_000
LONGEST_LINE = 500_000
LONGEST_TEXT = 20_000


def read(path: Path, offset: int) -> tuple[list[Event], int]:
    """The events of the whole lines from byte `offset` on, at most about a megabyte of them, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(CHUNK)
            while b"\n" not in data and (more := file.read(CHUNK)):
                data += more
    except FileNotFoundError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    return list(_events(whole)), offset + len(whole)


def _events(data: bytes) -> Iterator[Event]:
    for line in data.split(b"\n"):
        if line.strip():
            yield parse(line)


def parse(line: bytes) -> Event:
    """One printed line. What isn't an event becomes a line of the log."""
    if len(line) > LONGEST_LINE:
        return Logged(message=f"A line of {len(line)} bytes was left out.", level="warning")
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return of_printed(_storable(record)) or Logged(message=str(_storable(line.decode("utf-8", "replace"))).strip())


def _storable(value: Any) -> Any:
    """The value without what a database refuses: NUL characters, half surrogates, NaN; texts cut to a sane length."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT].replace("\x00", "�").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_storable(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
