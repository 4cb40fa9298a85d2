"""The file that answers are written to, one JSON object a line: what is whole in it is never asked for again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.dpo.ground.disk import full_disk
from worker.dpo.ground.errors import BadSetting, DiskFull

SETTINGS = ".settings.json"
FIELDS = {"line": int, "sample": int, "seed": int, "completion": str, "tokens": int, "finish": str}


class OtherAnswers(BadSetting):
    """A file that holds answers of another model, or made with other settings."""


class AnswerFile:
    """Answers by (line of the prompt, number of the sample), and the settings that all of them were made with.

    The settings stand beside it, in `NAME.settings.json`. A last line that was torn is dropped, and so is any that isn't
    an answer; `dropped` counts them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Raises OtherAnswers, and DiskFull and its kinds."""
        self.path, self._beside = path, settings_path(path)
        self.answers: dict[tuple[int, int], dict[str, Any]] = {}
        self.dropped = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                path.unlink(missing_ok=True)
                self._beside.unlink(missing_ok=True)
            self._take_up(dict(settings))
            self._file = path.open("a", encoding="utf-8")
        except OSError as problem:
            raise self._error(problem) from problem

    def _take_up(self, settings: dict[str, Any]) -> None:
        if not self.path.exists() or not self.path.stat().st_size:
            _replace(self._beside, json.dumps(settings, indent=1))
            return
        kept = _read(self._beside)
        if kept != settings:
            names = sorted(name for name in settings.keys() | kept.keys() if settings.get(name) != kept.get(name))
            differ = "; ".join(f"{name} {_shown(kept.get(name))}, not {_shown(settings.get(name))}" for name in names)
            raise OtherAnswers(
                f"{self.path} holds answers that were made with {differ}. "
                "Name another file, or say --fresh to drop them."
            )
        whole = []
        for text in self.path.read_bytes().split(b"\n"):
            answer = _answer(text)
            if answer is not None:
                self.answers.setdefault((answer["line"], answer["sample"]), answer)
                whole.append(text)
            elif text.strip():
                self.dropped += 1
        if self.dropped or not self.path.read_bytes().endswith(b"\n"):
            _replace(self.path, "".join(text.decode() + "\n" for text in whole))

    def add(self, answer: Mapping[str, Any]) -> None:
        """Append an answer, whole for every reader when this returns. Raises DiskFull and its kinds."""
        try:
            self._file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as problem:
            raise self._error(problem) from problem
        self.answers[answer["line"], answer["sample"]] = dict(answer)

    def _error(self, problem: OSError) -> Exception:
        """DiskFull for a full disk, else the error itself."""
        if full_disk(problem) is None:
            return problem
        return DiskFull(
            f"The disk of {self.path} is full. The {len(self.answers)} answers in it are whole: free some space and "
            "start the same command again."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def settings_path(path: Path) -> Path:
    """Where the settings of a file of answers stand."""
    return path.with_name(path.name + SETTINGS)


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _answer(text: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(answer, dict) and all(type(answer.get(name)) is kind for name, kind in FIELDS.items())
    return answer if whole else None


def _shown(value: Any) -> str:
    text = "no record of it" if value is None else str(value)
    return text if len(text) <= 20 else text[:12] + "…"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
