"""Pairs with the group of their prompt, and files of them: for a fold to train on, and of what came of it."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.dpo.data import chat, reading
from worker.dpo.data.pairs import Pair, Problem
from worker.dpo.ground.errors import DataFileError

GROUP = "group"


@dataclass(frozen=True, slots=True)
class Grouped:
    """A pair of the data. number: its own among those of its line, from 0. group: pairs with the same share a fold."""

    pair: Pair
    number: int
    group: str


def read_grouped(path: Path, problems: list[Problem]) -> list[Grouped]:
    """All pairs of a file. A line's `group` is their group; without one it is the prompt. Raises DataFileError."""
    told = {number: group for number, group in reading.read_column(path, GROUP) if group not in (None, "")}
    pairs: list[Grouped] = []
    seen: dict[int, int] = {}
    for pair in reading.read_pairs(path, on_problem=problems.append):
        number = seen.get(pair.line, 0)
        seen[pair.line] = number + 1
        group = str(told[pair.line]) if pair.line in told else json.dumps([pair.prompt, pair.tools], sort_keys=True)
        pairs.append(Grouped(pair, number, group))
    if not pairs:
        first = f" Line {problems[0].line}: {problems[0].message}" if problems else ""
        raise DataFileError(f"{path} has no usable pair.{first}")
    return pairs


def turned(pair: Pair) -> Pair:
    """The pair with its label the other way round."""
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """A preference file in the engine's own form, a pair a line. Raises OSError."""
    write_rows(path, [_row(pair) for pair in pairs])


def _row(pair: Pair) -> dict[str, Any]:
    sides: dict[str, Any] = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    if chat.is_plain(pair.prompt):
        sides = {name: messages[0]["content"] for name, messages in sides.items()}
    tools = {"tools": pair.tools} if pair.tools else {}
    return sides | tools | {"weight": pair.weight, "p_chosen": pair.p_chosen}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON Lines, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote. Raises OSError, ValueError."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
