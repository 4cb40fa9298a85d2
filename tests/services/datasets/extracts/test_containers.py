"""Rows as files, which other programs read."""

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.models import Container
from app.services.datasets.extracts.containers import chunks

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Q{number} ß"}],
        "chosen": [{"role": "assistant", "content": "A"}],
        "rejected": [{"role": "assistant", "content": "B"}],
        "weight": 0.5,
        "votes": 3,
        "external_id": "",
    }
    for number in range(1201)
]


def read(data: bytes, container: Container) -> list[dict[str, Any]]:
    if container is Container.PARQUET:
        from pyarrow import parquet

        return parquet.read_table(io.BytesIO(data)).to_pylist()
    return [
        json.loads(line) for line in (gzip.decompress(data) if container is Container.JSONL_GZ else data).splitlines()
    ]


@pytest.mark.parametrize("container", list(Container))
def test_every_kind_of_file_holds_the_rows(container: Container) -> None:
    data = b"".join(chunks(ROWS, container))
    assert read(data, container) == ROWS
    assert b"".join(chunks(ROWS, container)) == data  # the same rows are the same bytes
    assert read(b"".join(chunks([], container)), container) == []


@pytest.mark.parametrize("container", list(Container))
def test_a_file_is_made_while_its_rows_come(container: Container) -> None:
    taken = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in ROWS * 40:
            taken += 1
            yield row

    made = chunks(counted(), container)
    next(made)
    assert taken < len(ROWS) * 40
    assert sum(map(len, made)) > 0 and taken == len(ROWS) * 40


def test_trl_reads_the_parquet_file(tmp_path: Any) -> None:
    from datasets import Dataset

    path = tmp_path / "train.parquet"
    path.write_bytes(b"".join(chunks(ROWS[:3], Container.PARQUET)))
    assert Dataset.from_parquet(str(path), cache_dir=str(tmp_path)).to_list() == ROWS[:3]
