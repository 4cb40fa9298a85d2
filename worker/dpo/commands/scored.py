"""The file that `score --out` writes, one JSON object a pair: what is whole in it is never scored again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.dpo.ground.disk import file_sha256, full_disk
from worker.dpo.ground.errors import BadSetting, DiskFull


class OtherScores(BadSetting):
    """A file that holds scores by another model, of other data, or made with other settings."""


class ScoreFile:
    """Scores by line of the data, and the settings that they were made with, beside it in `NAME.settings.json`. What isn't a
    whole line is dropped."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises OtherScores, and DiskFull and its kinds."""
        self.path, self.lines = path, set[int]()
        beside = path.with_name(path.name + ".settings.json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                if _read(beside) != dict(settings):
                    raise OtherScores(
                        f"{path} holds scores by another model, of other data or with other settings. Name another file."
                    )
                whole = [text for text in path.read_bytes().split(b"\n") if self._take_up(text)]
                path.write_bytes(b"".join(text + b"\n" for text in whole))
            else:
                beside.write_text(json.dumps(dict(settings), indent=1), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as problem:
            raise self._error(problem) from problem

    def _take_up(self, text: bytes) -> bool:
        try:
            line = json.loads(text)["line"]
        except (ValueError, TypeError, KeyError):
            return False
        self.lines.add(line)
        return True

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append scores, whole for every reader when this returns. Raises DiskFull and its kinds."""
        try:
            for record in records:
                self._file.write(json.dumps(record) + "\n")
                self.lines.add(int(record["line"]))
            self._file.flush()
        except OSError as problem:
            raise self._error(problem) from problem

    def _error(self, problem: OSError) -> Exception:
        if full_disk(problem) is None:
            return problem
        return DiskFull(
            f"The disk of {self.path} is full. The whole lines in it stay: free some space and start the same command again."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def weights_of(folder: Path) -> str:
    """SHA-256 of a folder's weights by their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
