"""A snapshot's files: JSON Lines that TRL's DPOTrainer reads as they are."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.models import Choice, Comparison, Prompt, Response, Split
from app.services.datasets import members
from app.services.datasets.collected import Pair
from app.storage import Storage, StoredFile

SPLITS = {"eval.jsonl": Split.EVAL, "train.jsonl": Split.TRAIN}
PAGE = 500


@dataclass(frozen=True, slots=True)
class Written:
    """Both files in a folder, and the hash that names the dataset: SHA-256 of what `sha256sum` prints of them. `blocks`: which
    comparisons they hold."""

    folder: Path
    sha256: str
    blocks: dict[int, bytearray]

    def upload(self, storage: Storage, *, project_id: int) -> tuple[StoredFile, ...]:
        """Store the files, named by content: who stores them again overwrites them with the same bytes."""
        prefix = f"snapshots/{project_id}/{self.sha256}"
        return tuple(storage.put_file(f"{prefix}/{name}", self.folder / name) for name in SPLITS)


def write(session: Session, pairs: Iterable[Pair], folder: Path) -> Written:
    """Writes both files, a page of pairs at a time."""
    following = iter(pairs)

    def lines() -> Iterator[tuple[Split, int, bytes]]:
        while page := list(islice(following, PAGE)):
            yield from ((pair.split, pair.comparison_id, line) for pair, line in lines_of(session, page))

    return write_lines(lines(), folder)


def write_lines(lines: Iterable[tuple[Split, int, bytes]], folder: Path) -> Written:
    """Writes both files of (split, comparison, line)."""
    ids = array("q")
    digests = {split: hashlib.sha256() for split in SPLITS.values()}
    with ExitStack() as stack:
        handles = {split: stack.enter_context((folder / name).open("wb")) for name, split in SPLITS.items()}
        for split, comparison_id, line in lines:
            handles[split].write(line)
            digests[split].update(line)
            ids.append(comparison_id)
    printed = "".join(f"{digests[split].hexdigest()}  {name}\n" for name, split in SPLITS.items())
    return Written(folder, hashlib.sha256(printed.encode()).hexdigest(), members.blocks_of(ids))


def lines_of(session: Session, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, bytes]]:
    first, second = aliased(Response), aliased(Response)
    query = (
        select(
            Comparison.id, Comparison.external_id, Prompt.messages, first.text, first.turns, second.text, second.turns
        )
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(Comparison.id.in_([pair.comparison_id for pair in pairs]))
    )
    rows = {row[0]: row[1:] for row in session.execute(query)}
    for pair in pairs:
        external_id, messages, *answers = rows[pair.comparison_id]
        sides = messages_of(*answers[:2]), messages_of(*answers[2:])
        chosen, rejected = sides if pair.decision.chosen is Choice.FIRST else reversed(sides)
        yield (
            pair,
            orjson.dumps(
                {
                    "prompt": [{"role": message["role"], "content": message["content"]} for message in messages],
                    "chosen": chosen,
                    "rejected": rejected,
                    "weight": pair.decision.weight,
                    "p_chosen": pair.decision.p_chosen,
                    "votes": pair.decision.votes,
                    "votes_chosen": pair.decision.votes_chosen,
                    "comparison_id": pair.comparison_id,
                    "prompt_id": pair.prompt_id,
                    "external_id": external_id or "",
                    "chosen_source": pair.sources[0],
                    "rejected_source": pair.sources[1],
                },
                option=orjson.OPT_APPEND_NEWLINE,
            ),
        )


def messages_of(text: str, turns: list[Any] | None) -> list[dict[str, str]]:
    """An answer's messages: one, or those of several turns."""
    given = turns or [{"role": "assistant", "content": text}]
    return [{"role": message["role"], "content": message["content"]} for message in given]
